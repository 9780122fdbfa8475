//! `/v1/events`: what happened lately, and what happens, one JSON object a line: in Hubble's shape, or with all that we know
//! beside.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_policy::hubble::filter::{Filters, FlowFilter};
use sluice_policy::hubble::{self, Teller};
use sluice_policy::observed::describe;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::reconcile::Control;
use crate::telling::{Told, Wanted, tell, teller};

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

impl Asked {
    fn wanted(&self) -> Result<Wanted, String> {
        if self.first.is_some() && self.follow {
            return Err("the first ones and following exclude each other".to_owned());
        }
        let read = |text: &String| serde_json::from_str::<Filters>(text).map_err(|error| error.to_string());
        let mut filters = self.filter.as_ref().map(read).transpose()?.unwrap_or_default();
        if let Some(verdict) = &self.verdict {
            filters.allow.push(FlowFilter { verdict: vec![verdict.clone()], ..FlowFilter::default() });
        }
        filters.check()?;
        let Self { first, last, since, until, follow, .. } = *self;
        Ok(Wanted { first, last, since, until, follow, filters })
    }
}

fn line(told: Told<'_>, strict: bool, teller: &Teller) -> String {
    let told = match told {
        Told::Flow { flow, time, .. } if strict => hubble::line(flow, time, teller),
        Told::Flow { flow, event, time, names } => {
            let mut told = describe(event, time, names);
            merge(&mut told, flow);
            told
        }
        Told::Lost { count, at, time } => {
            let mut told = hubble::lost(count, at, time, teller);
            if !strict {
                told["event"] = json!("lost");
            }
            told
        }
    };
    format!("{told}\n")
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

pub async fn serve(State(control): State<Arc<Control>>, Query(asked): Query<Asked>) -> Response {
    let wanted = match asked.wanted() {
        Ok(wanted) => wanted,
        Err(why) => return (StatusCode::BAD_REQUEST, why).into_response(),
    };
    let (strict, teller) = (asked.form == "jsonpb", teller(&control));
    let lines = tell(control, wanted, move |told| line(told, strict, &teller));
    Body::from_stream(ReceiverStream::new(lines).map(Ok::<_, Infallible>)).into_response()
}
