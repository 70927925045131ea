//! Registration of metrics, with a description of each, also of those that have no series yet.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Metric as documented in docs/metrics.md.
#[derive(Debug)]
pub struct Described {
    /// Name with the prefix.
    pub name: String,
    /// Type in Prometheus's words.
    pub kind: &'static str,
    pub labels: Vec<&'static str>,
    /// Values of the single label if all of them have a series from the start.
    pub values: Vec<&'static str>,
    pub help: &'static str,
}

/// Registry and the descriptions of what it contains.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    pub(super) registry: Registry,
    pub(super) described: Vec<Described>,
}

/// Counters by one label with a fixed set of values, each of which is 0 at the start. `increase()` of a series that
/// begins with 1 is 0, so an alert would miss the first event.
#[derive(Debug)]
pub(super) struct Fixed {
    pub(super) counters: IntCounterVec,
    values: &'static [&'static str],
}

impl Fixed {
    pub(super) fn inc(&self, value: &'static str) {
        debug_assert!(self.values.contains(&value), "`{value}` is not among the label's values");
        self.counters.with_label_values(&[value]).inc();
    }
}

impl Catalogue {
    pub(super) fn counter(&mut self, name: &str, help: &'static str) -> Result<IntCounter, prometheus::Error> {
        let counter = IntCounter::with_opts(self.opts(name, "counter", help, &[]))?;
        self.registry.register(Box::new(counter.clone()))?;
        Ok(counter)
    }

    pub(super) fn counters(
        &mut self,
        name: &str,
        help: &'static str,
        labels: &[&'static str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        let counters = IntCounterVec::new(self.opts(name, "counter", help, labels), labels)?;
        self.registry.register(Box::new(counters.clone()))?;
        Ok(counters)
    }

    pub(super) fn fixed(
        &mut self,
        name: &str,
        help: &'static str,
        label: &'static str,
        values: &'static [&'static str],
    ) -> Result<Fixed, prometheus::Error> {
        let counters = self.counters(name, help, &[label])?;
        for value in values {
            counters.with_label_values(&[*value]);
        }
        if let Some(described) = self.described.last_mut() {
            described.values = values.to_vec();
        }
        Ok(Fixed { counters, values })
    }

    pub(super) fn gauge(&mut self, name: &str, help: &'static str) -> Result<IntGauge, prometheus::Error> {
        let gauge = IntGauge::with_opts(self.opts(name, "gauge", help, &[]))?;
        self.registry.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    }

    /// Without labels, the metric is absent until it is set.
    pub(super) fn gauges(
        &mut self,
        name: &str,
        help: &'static str,
        labels: &[&'static str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        let gauges = IntGaugeVec::new(self.opts(name, "gauge", help, labels), labels)?;
        self.registry.register(Box::new(gauges.clone()))?;
        Ok(gauges)
    }

    /// Registers one histogram for each value of the label.
    pub(super) fn histograms<const N: usize>(
        &mut self,
        name: &str,
        help: &'static str,
        label: &'static str,
        values: [&'static str; N],
    ) -> Result<[Histogram; N], prometheus::Error> {
        let options = HistogramOpts::from(self.opts(name, "histogram", help, &[label])).buckets(BUCKETS.to_vec());
        let histograms = HistogramVec::new(options, &[label])?;
        self.registry.register(Box::new(histograms.clone()))?;
        if let Some(described) = self.described.last_mut() {
            described.values = values.to_vec();
        }
        Ok(values.map(|value| histograms.with_label_values(&[value])))
    }

    fn opts(&mut self, name: &str, kind: &'static str, help: &'static str, labels: &[&'static str]) -> Opts {
        let name = format!("{PREFIX}_{name}");
        let described = Described { name: name.clone(), kind, labels: labels.to_vec(), values: Vec::new(), help };
        self.described.push(described);
        Opts::new(name, help)
    }
}

const PREFIX: &str = "mlflow_auth_proxy";
/// Histogram bounds in seconds, from the overhead of the proxy to the largest artifacts.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 120.0];
