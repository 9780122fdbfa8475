//! Counters and gauges as Prometheus text. Values are read when asked for; nothing is kept here.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
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

#[derive(Debug)]
struct Snapshot(Vec<Family>);

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
        Ok(())
    }
}

/// The text exposition of these families.
pub fn exposition(families: Vec<Family>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot(families)));
    let mut out = String::new();
    // Writing to a string cannot fail; the encoder's own errors would be a bug that the test below catches.
    let _ = text::encode(&mut out, &registry);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_gauges_with_labels() {
        let drops = Family::counter("cilium_drop_count", "Dropped packets.")
            .with(&[("reason", "POLICY_DENIED"), ("direction", "INGRESS")], 7);
        let flows = Family::gauge("sluice_flows", "Flows now.").with(&[], 3);
        let text = exposition(vec![drops, flows]);
        assert!(
            text.contains("cilium_drop_count_total{reason=\"POLICY_DENIED\",direction=\"INGRESS\"} 7.0"),
            "{text}"
        );
        assert!(text.contains("# TYPE sluice_flows gauge"), "{text}");
        assert!(text.contains("sluice_flows 3"), "{text}");
    }
}
