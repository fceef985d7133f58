//! Formats metrics as text.

use prometheus::{
    TextEncoder,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

use meshd_proto::mesh::reports::view::{PeerMeasures, RTT_BOUNDS};

/// Families of metrics in order of addition; empty ones are omitted.
#[derive(Debug, Default)]
pub(super) struct Families(Vec<MetricFamily>);

impl Families {
    /// Adds a gauge, with a value for each set of labels.
    pub(super) fn gauge<L: Labels>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, f64)>,
    ) {
        let set = |metric: &mut Metric, value| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        };
        self.plain(name, help, MetricType::GAUGE, values, set);
    }

    /// Adds a counter, with a value for each set of labels.
    pub(super) fn counter<L: Labels>(
        &mut self,
        name: &str,
        help: &str,
        counts: impl IntoIterator<Item = (L, u64)>,
    ) {
        let set = |metric: &mut Metric, count| {
            let mut counter = Counter::default();
            counter.set_value(count as f64);
            metric.set_counter(counter);
        };
        self.plain(name, help, MetricType::COUNTER, counts, set);
    }

    fn plain<L: Labels, V>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        values: impl IntoIterator<Item = (L, V)>,
        set: impl Fn(&mut Metric, V),
    ) {
        let metrics = values.into_iter().map(|(labels, value)| {
            let mut metric = Metric::from_label(labels.pairs());
            set(&mut metric, value);
            metric
        });
        self.add(name, help, kind, metrics.collect());
    }

    /// Adds a histogram of the round trips of every peer.
    pub(super) fn round_trips(&mut self, name: &str, help: &str, peers: &[PeerMeasures]) {
        let mut all = Vec::new();
        for peer in peers {
            let all_trips = peer.round_trips.iter().sum();
            if all_trips == 0 {
                continue;
            }
            let mut count = 0;
            let mut buckets = Vec::new();
            // The encoder adds the bucket without an upper bound.
            for (bound, trips) in RTT_BOUNDS.into_iter().zip(peer.round_trips) {
                count += trips;
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(bound);
                bucket.set_cumulative_count(count);
                buckets.push(bucket);
            }
            let mut histogram = Histogram::default();
            histogram.set_bucket(buckets);
            histogram.set_sample_count(all_trips);
            histogram.set_sample_sum(peer.round_trips_seconds);
            let mut metric = Metric::from_label([("peer", &peer.name)].pairs());
            metric.set_histogram(histogram);
            all.push(metric);
        }
        self.add(name, help, MetricType::HISTOGRAM, all);
    }

    fn add(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.into());
        family.set_help(help.into());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }

    /// Returns the text format, version 0.0.4.
    pub(super) fn text(&self) -> String {
        let text = TextEncoder::new().encode_to_string(&self.0);
        text.expect("no family is empty or without a name")
    }
}

/// Names and values of labels.
pub(super) trait Labels {
    fn pairs(&self) -> Vec<LabelPair>;
}

impl<T: AsRef<str>, const N: usize> Labels for [(&str, T); N] {
    fn pairs(&self) -> Vec<LabelPair> {
        pairs(self)
    }
}

impl Labels for &[(&str, &str)] {
    fn pairs(&self) -> Vec<LabelPair> {
        pairs(self)
    }
}

fn pairs<T: AsRef<str>>(labels: &[(&str, T)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, T)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value.as_ref().to_owned());
        pair
    };
    labels.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_become_the_text_that_prometheus_reads() {
        let mut out = Families::default();
        out.gauge(
            "up",
            "Whether.",
            [([("peer", "b")], 1.0), ([("peer", "c")], 0.5)],
        );
        out.counter("lines_total", "How many.", [(&[][..], 7)]);
        out.counter(
            "none_total",
            "Nothing of it.",
            Vec::<([(&str, &str); 0], u64)>::new(),
        );
        let mut round_trips = [0; RTT_BOUNDS.len() + 1];
        (round_trips[0], round_trips[RTT_BOUNDS.len()]) = (2, 1);
        let quiet = PeerMeasures {
            name: "c".into(),
            round_trips: [0; RTT_BOUNDS.len() + 1],
            round_trips_seconds: 0.0,
            loss_ratio: None,
            heard: None,
        };
        let lively = PeerMeasures {
            name: "b".into(),
            round_trips,
            round_trips_seconds: 2.5,
            ..quiet
        };
        out.round_trips("rtt_seconds", "Trips.", &[lively, quiet]);
        let text = out.text();
        let begin = "# HELP up Whether.\n# TYPE up gauge\nup{peer=\"b\"} 1\nup{peer=\"c\"} 0.5\n\
            # HELP lines_total How many.\n# TYPE lines_total counter\nlines_total 7\n\
            # HELP rtt_seconds Trips.\n# TYPE rtt_seconds histogram\n\
            rtt_seconds_bucket{peer=\"b\",le=\"0.0001\"} 2\n";
        assert!(text.starts_with(begin), "{text}");
        let end = "rtt_seconds_bucket{peer=\"b\",le=\"1\"} 2\nrtt_seconds_bucket{peer=\"b\",le=\"+Inf\"} 3\n\
            rtt_seconds_sum{peer=\"b\"} 2.5\nrtt_seconds_count{peer=\"b\"} 3\n";
        assert!(text.ends_with(end), "{text}");
    }
}
