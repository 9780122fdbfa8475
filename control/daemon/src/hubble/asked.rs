//! What a request asks for, as the rest of us understands it.

use std::collections::BTreeMap;

use prost_types::Timestamp;
use serde_json::Value;
use sluice_policy::hubble::filter::{Filters, FlowFilter};
use tonic::Status;

use super::proto::{flow, observer as pb};
use super::wire;
use crate::telling::Wanted;

/// Flows that are asked for, and what of them.
pub fn flows(asked: &pb::GetFlowsRequest) -> Result<(Wanted, Mask), Status> {
    first_or_follow(asked.first, asked.follow)?;
    if asked.extensions.is_some() {
        return Err(Status::invalid_argument("extensions: there are none here"));
    }
    let filters = Filters {
        allow: filters("whitelist", &asked.whitelist)?,
        deny: filters("blacklist", &asked.blacklist)?,
    };
    let number = usize::try_from(asked.number).unwrap_or(usize::MAX);
    let since = moment("since", asked.since.as_ref(), true)?;
    // Where a time says where to begin, numbers count from there on.
    let forwards = asked.first || (since.is_some() && !asked.follow);
    let wanted = Wanted {
        first: (forwards && number > 0).then_some(number),
        last: match (asked.follow, since) {
            (_, Some(_)) => None,
            (true, None) => Some(number),
            (false, None) => (!asked.first && number > 0).then_some(number),
        },
        since,
        until: moment("until", asked.until.as_ref(), false)?,
        follow: asked.follow,
        filters,
    };
    let older = asked.experimental.as_ref().and_then(|experimental| experimental.field_mask.as_ref());
    let newer = asked.field_mask.as_ref().filter(|mask| !mask.paths.is_empty());
    let paths = newer.or(older).map_or(&[][..], |mask| &mask.paths);
    Ok((wanted, Mask::new(paths)?))
}

pub fn first_or_follow(first: bool, follow: bool) -> Result<(), Status> {
    match first && follow {
        true => Err(Status::invalid_argument("first: excludes follow")),
        false => Ok(()),
    }
}

fn filters(list: &str, filters: &[flow::FlowFilter]) -> Result<Vec<FlowFilter>, Status> {
    let read = |(at, filter)| {
        FlowFilter::read(&wire::to_json(filter)?)
            .map_err(|why| Status::invalid_argument(format!("{list}[{at}].{why}")))
    };
    filters.iter().enumerate().map(read).collect()
}

/// Milliseconds since 1970. What lies between two of them belongs to the later one for a beginning, to the earlier one for
/// an end.
fn moment(field: &str, time: Option<&Timestamp>, begins: bool) -> Result<Option<u64>, Status> {
    let Some(time) = time else { return Ok(None) };
    if !(-62_135_596_800..=253_402_300_799).contains(&time.seconds)
        || !(0..1_000_000_000).contains(&time.nanos)
    {
        return Err(Status::invalid_argument(format!("{field}: not a time of the years 1 to 9999")));
    }
    let nanos = if begins { time.nanos + 999_999 } else { time.nanos };
    let milliseconds = time.seconds * 1000 + i64::from(nanos / 1_000_000);
    Ok(Some(u64::try_from(milliseconds).unwrap_or(0)))
}

/// Which fields of a flow are told.
#[derive(Debug, PartialEq, Eq)]
pub enum Mask {
    Whole,
    Only(BTreeMap<String, Self>),
}

impl Mask {
    /// Paths as `source.pod_name`; none: all there is.
    fn new(paths: &[String]) -> Result<Self, Status> {
        let mut mask = if paths.is_empty() { Self::Whole } else { Self::Only(BTreeMap::new()) };
        for path in paths {
            if !exists(path) {
                return Err(Status::invalid_argument(format!("field_mask: there is no {path} in flows")));
            }
            mask.add(path);
        }
        Ok(mask)
    }

    fn add(&mut self, path: &str) {
        // What is told as a whole stays so.
        let Self::Only(fields) = self else { return };
        match path.split_once('.') {
            None => drop(fields.insert(path.to_owned(), Self::Whole)),
            Some((field, rest)) => {
                fields.entry(field.to_owned()).or_insert_with(|| Self::Only(BTreeMap::new())).add(rest);
            }
        }
    }

    /// Nothing of the flow but this.
    pub fn only(&self, mut flow: Value) -> Value {
        self.prune(&mut flow);
        flow
    }

    fn prune(&self, value: &mut Value) {
        let (Self::Only(wanted), Value::Object(fields)) = (self, value) else { return };
        fields.retain(|name, field| match wanted.get(name) {
            Some(mask) => {
                mask.prune(field);
                true
            }
            None => false,
        });
    }
}

/// Do flows have such a field? Lists and times have no parts.
fn exists(path: &str) -> bool {
    let mut within = Some(wire::descriptor::<flow::Flow>());
    path.split('.').all(|name| {
        let Some(field) = within.take().and_then(|message| message.get_field_by_name(name)) else {
            return false;
        };
        let inner = field.kind().as_message().filter(|_| !field.is_list()).cloned();
        within = inner.filter(|message| message.package_name() != "google.protobuf");
        true
    })
}
