//! Counters and gauges as Prometheus text. Values are read when asked for; nothing is kept here.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// All samples of one name.
#[derive(Clone, Debug)]
pub struct Family {
    /// Without `_total`, which counters get by themselves.
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    pub samples: Vec<(Vec<(&'static str, String)>, f64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

impl Family {
    pub fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Counter, samples: Vec::new() }
    }

    pub fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Gauge, samples: Vec::new() }
    }

    #[expect(clippy::cast_precision_loss, reason = "Prometheus has no integers; 2^53 packets are years away")]
    #[must_use]
    pub fn with(mut self, labels: &[(&'static str, &str)], value: u64) -> Self {
        self.add(labels, value as f64);
        self
    }

    pub fn add(&mut self, labels: &[(&'static str, &str)], value: f64) {
        self.samples.push((labels.iter().map(|(k, v)| (*k, (*v).to_owned())).collect(), value));
    }
}

/// One value of either kind.
struct Value(Kind, f64);

impl EncodeMetric for Value {
    fn encode(&self, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match self.0 {
            Kind::Counter => ConstCounter::new(self.1).encode(encoder),
            Kind::Gauge => ConstGauge::new(self.1).encode(encoder),
        }
    }

    fn metric_type(&self) -> MetricType {
        match self.0 {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
        }
    }
}

/// A histogram that others counted: upper bounds with how many were in each.
#[derive(Clone, Debug)]
pub struct Measured {
    pub name: &'static str,
    pub help: &'static str,
    pub sum: f64,
    pub counts: Vec<(f64, u64)>,
}

#[derive(Debug)]
struct Snapshot(Vec<Family>, Vec<Measured>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in &self.0 {
            let kind = Value(family.kind, 0.0).metric_type();
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            match family.samples.as_slice() {
                [(labels, value)] if labels.is_empty() => Value(family.kind, *value).encode(metric)?,
                samples => {
                    for (labels, value) in samples {
                        Value(family.kind, *value).encode(metric.encode_family(labels)?)?;
                    }
                }
            }
        }
        for measured in &self.1 {
            let kind = MetricType::Histogram;
            let mut metric = encoder.encode_descriptor(measured.name, measured.help, None, kind)?;
            let count = measured.counts.iter().map(|(_, count)| count).sum();
            metric.encode_histogram::<Vec<(String, String)>>(measured.sum, count, &measured.counts, None)?;
        }
        Ok(())
    }
}

/// The text exposition of these families, and of histograms (name, help, values).
pub fn exposition(
    families: Vec<Family>,
    measured: Vec<Measured>,
    histograms: Vec<(&'static str, &'static str, Histogram)>,
) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot(families, measured)));
    for (name, help, histogram) in histograms {
        registry.register(name, help, histogram);
    }
    let mut out = String::new();
    // Writing to a string cannot fail; the encoder's own errors would be a bug that the test below catches.
    let _ = text::encode(&mut out, &registry);
    out
}

#[cfg(test)]
pub mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn counters_and_gauges_with_labels() {
        let drops = Family::counter("cilium_drop_count", "Dropped packets.")
            .with(&[("reason", "POLICY_DENIED"), ("direction", "INGRESS")], 7);
        let flows = Family::gauge("sluice_flows", "Flows now.").with(&[], 3);
        let took = Histogram::new([0.001, 0.005]);
        took.observe(0.002);
        let text = exposition(
            vec![drops, flows],
            Vec::new(),
            vec![("sluice_publish_seconds", "From read to live.", took)],
        );
        assert_sound(&text);
        assert!(
            text.contains("cilium_drop_count_total{reason=\"POLICY_DENIED\",direction=\"INGRESS\"} 7.0"),
            "{text}"
        );
        assert!(text.contains("# TYPE sluice_flows gauge"), "{text}");
        assert!(text.contains("sluice_flows 3"), "{text}");
        assert!(text.contains("sluice_publish_seconds_bucket{le=\"0.005\"} 1"), "{text}");
    }

    /// What `promtool check metrics` would look at: every line is a comment or a sample of a family that was announced with
    /// type and help, names are legal, counters end in `_total`, no series comes twice.
    pub fn assert_sound(text: &str) {
        let (mut types, mut helped, mut series) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        assert!(text.ends_with("# EOF\n"), "{text}");
        for line in text.lines().filter(|line| *line != "# EOF") {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "announced twice: {line}");
            } else {
                let (id, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
                assert!(value.parse::<f64>().is_ok(), "{line}");
                assert!(series.insert(id.to_owned()), "twice: {line}");
                let name = id.split('{').next().unwrap();
                assert!(
                    name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'),
                    "{line}"
                );
                let family = ["_total", "_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|end| name.strip_suffix(end).filter(|f| types.contains_key(*f)));
                let family = family.unwrap_or(name);
                let kind = types.get(family).unwrap_or_else(|| panic!("never announced: {line}"));
                assert!(helped.contains(family), "no help: {line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                labels(id.strip_prefix(name).unwrap());
            }
        }
    }

    fn labels(text: &str) {
        if text.is_empty() || text == "{}" {
            return;
        }
        let inner = text
            .strip_prefix('{')
            .and_then(|text| text.strip_suffix('}'))
            .unwrap_or_else(|| panic!("{text}"));
        let mut names = BTreeSet::new();
        for label in inner.split("\",") {
            let (name, value) = label.split_once("=\"").unwrap_or_else(|| panic!("{text}"));
            assert!(names.insert(name) && !name.is_empty() && !value.contains('\n'), "{text}");
        }
    }
}
