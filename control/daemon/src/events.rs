//! What happened lately, and what happens: events with Hubble's filters, in Hubble's shape or with all that we know beside.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_core::event::EventKind;
use sluice_policy::compile::Compiled;
use sluice_policy::hubble::filter::{Filters, FlowFilter};
use sluice_policy::hubble::{self, Teller};
use sluice_policy::observed::describe;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

use crate::history::{Part, Seen};
use crate::reconcile::Control;
use crate::views::time;

/// What `/v1/events` is asked for.
#[derive(Debug, Default, Deserialize)]
pub struct Asked {
    last: Option<usize>,
    first: Option<usize>,
    /// Milliseconds since 1970.
    since: Option<u64>,
    until: Option<u64>,
    #[serde(default)]
    follow: bool,
    /// JSON; see [`Filters`].
    filter: Option<String>,
    /// One verdict, for those who want no more.
    verdict: Option<String>,
    /// `jsonpb`: nothing but what Hubble knows.
    #[serde(default)]
    form: String,
}

/// How to tell, and what of.
struct Telling {
    control: Arc<Control>,
    filters: Filters,
    strict: bool,
    teller: Teller,
}

impl Telling {
    fn new(control: Arc<Control>, asked: &Asked) -> Result<Self, String> {
        let read = |text: &String| serde_json::from_str::<Filters>(text).map_err(|error| error.to_string());
        let mut filters = asked.filter.as_ref().map(read).transpose()?.unwrap_or_default();
        if let Some(verdict) = &asked.verdict {
            filters.allow.push(FlowFilter { verdict: vec![verdict.clone()], ..FlowFilter::default() });
        }
        filters.check()?;
        let options = &control.gateway.options;
        let teller = Teller { cluster: options.cluster.clone(), node: options.node.clone() };
        Ok(Self { control, filters, strict: asked.form == "jsonpb", teller })
    }

    /// The event as a line, if it is wanted. The names are those of now.
    fn line(&self, seen: &Seen) -> Option<String> {
        self.told(seen, &self.control.world().compiled)
    }

    fn told(&self, seen: &Seen, compiled: &Compiled) -> Option<String> {
        // How a flow ended is for the metrics; Hubble has no such event.
        if seen.event.kind == EventKind::End {
            return None;
        }
        let at = time(seen.milliseconds);
        let flow = hubble::flow(&seen.event, &at, &self.teller, compiled);
        if !self.filters.fits(&flow) {
            return None;
        }
        if self.strict {
            return Some(format!("{}\n", json!({"flow": flow, "node_name": self.teller.name(), "time": at})));
        }
        let mut told = describe(&seen.event, &at, compiled);
        merge(&mut told, flow);
        Some(format!("{told}\n"))
    }

    /// Events that a slow reader missed are told of whatever is asked for.
    fn lost(&self, count: u64) -> String {
        let at = time(crate::history::now());
        let mut told = hubble::lost(count, &at, &self.teller);
        if !self.strict {
            told["event"] = json!("lost");
        }
        format!("{told}\n")
    }
}

/// Ours, with what Hubble says beside it.
fn merge(ours: &mut Value, theirs: Value) {
    let (Value::Object(ours), Value::Object(theirs)) = (ours, theirs) else { return };
    for (key, value) in theirs {
        match ours.get_mut(&key) {
            Some(own) if own.is_object() => merge(own, value),
            Some(_) => {}
            None => drop(ours.insert(key, value)),
        }
    }
}

/// One JSON object a line: those of the past that are asked for, and with `follow` those to come.
pub async fn serve(State(control): State<Arc<Control>>, Query(asked): Query<Asked>) -> Response {
    let wrong = |why: String| (StatusCode::BAD_REQUEST, why).into_response();
    if asked.first.is_some() && asked.follow {
        return wrong("the first ones and following exclude each other".to_owned());
    }
    let telling = match Telling::new(Arc::clone(&control), &asked) {
        Ok(telling) => telling,
        Err(why) => return wrong(why),
    };
    let news = control.history.listen();
    let past = {
        let world = control.world();
        let part = Part { first: asked.first, last: asked.last, since: asked.since, until: asked.until };
        control.history.part(&part, |seen| telling.told(seen, &world.compiled))
    };
    if !asked.follow {
        return past.concat().into_response();
    }
    let until = asked.until.unwrap_or(u64::MAX);
    let coming = BroadcastStream::new(news)
        .take_while(move |seen| seen.as_ref().is_ok_and(|seen| seen.milliseconds <= until) || seen.is_err())
        .filter_map(move |seen| match seen {
            Ok(seen) => telling.line(&seen),
            Err(BroadcastStreamRecvError::Lagged(count)) => Some(telling.lost(count)),
        });
    let lines = tokio_stream::iter(past).chain(coming).map(Ok::<_, Infallible>);
    Body::from_stream(lines).into_response()
}
