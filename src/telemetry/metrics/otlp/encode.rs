//! Snapshots in the form of OTLP.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValueOneof;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use crate::engine::Timestamp;
use crate::telemetry::metrics::model::{Distribution, Kind, Value};
use crate::telemetry::metrics::snapshot::{Family, Point, Snapshot};

const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;

/// Encodes the metrics of one service.
pub(super) struct Encoder {
    resource: Resource,
    start_ns: u64,
}

/// Times of every value.
#[derive(Clone, Copy)]
struct Times {
    start_ns: u64,
    now_ns: u64,
}

impl Encoder {
    /// An encoder for a service that counts since `start`.
    pub(super) fn new(resource: &opentelemetry_sdk::Resource, start: Timestamp) -> Self {
        let attributes =
            resource.iter().map(|(name, value)| attribute(name.as_str(), value.as_str().as_ref()));
        let resource = Resource { attributes: attributes.collect(), ..Resource::default() };
        Self { resource, start_ns: nanos(start) }
    }

    /// `snapshot`, as read at `now`.
    pub(super) fn encode(&self, snapshot: &Snapshot, now: Timestamp) -> ExportMetricsServiceRequest {
        let times = Times { start_ns: self.start_ns, now_ns: nanos(now) };
        let scope = InstrumentationScope {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let metrics = snapshot.families().iter().map(|family| metric(family, times)).collect();
        let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() }];
        let resource = Some(self.resource.clone());
        let metrics = ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() };
        ExportMetricsServiceRequest { resource_metrics: vec![metrics] }
    }
}

fn metric(Family { metric, points }: &Family<'_>, times: Times) -> Metric {
    let numbers = || points.iter().map(|point| number(point, times)).collect();
    let data = match metric.kind {
        Kind::Gauge => Data::Gauge(Gauge { data_points: numbers() }),
        Kind::Counter => {
            Data::Sum(Sum { data_points: numbers(), aggregation_temporality: CUMULATIVE, is_monotonic: true })
        }
        Kind::Histogram => Data::Histogram(Histogram {
            data_points: points.iter().filter_map(|point| histogram(point, times)).collect(),
            aggregation_temporality: CUMULATIVE,
        }),
    };
    let has_unit = |unit: &str| metric.name.trim_end_matches("_total").ends_with(unit);
    let unit = match () {
        () if has_unit("_seconds") => "s",
        () if has_unit("_bytes") => "By",
        () => "",
    };
    Metric {
        name: metric.name.to_owned(),
        description: metric.help().to_owned(),
        unit: unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

fn number(point: &Point<'_>, times: Times) -> NumberDataPoint {
    let value = match &point.value {
        Value::Integer(value) => number_data_point::Value::AsInt(i64::try_from(*value).unwrap_or(i64::MAX)),
        value => number_data_point::Value::AsDouble(value.as_f64()),
    };
    NumberDataPoint {
        attributes: attributes(point),
        start_time_unix_nano: times.start_ns,
        time_unix_nano: times.now_ns,
        value: Some(value),
        ..NumberDataPoint::default()
    }
}

fn histogram(point: &Point<'_>, times: Times) -> Option<HistogramDataPoint> {
    let Value::Histogram(distribution) = &point.value else { return None };
    let Distribution { bounds, counts, sum_secs } = distribution;
    Some(HistogramDataPoint {
        attributes: attributes(point),
        start_time_unix_nano: times.start_ns,
        time_unix_nano: times.now_ns,
        count: distribution.count(),
        sum: Some(*sum_secs),
        bucket_counts: counts.clone(),
        explicit_bounds: bounds.to_vec(),
        ..HistogramDataPoint::default()
    })
}

fn attributes(point: &Point<'_>) -> Vec<KeyValue> {
    point.labels.iter().map(|(name, value)| attribute(name, value)).collect()
}

fn attribute(name: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(AnyValueOneof::StringValue(value.to_owned())) };
    KeyValue { key: name.to_owned(), value: Some(value), ..KeyValue::default() }
}

const fn nanos(time: Timestamp) -> u64 {
    time.as_micros().saturating_mul(1_000)
}
