//! Logs and metrics of one process. Layer: ground.

mod json;

use std::io::IsTerminal;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::JsonFields;

use crate::config::{Log, LogFormat};

/// Bounds of the histograms, in seconds.
const SECONDS: [f64; 12] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0];

/// Bounds of opinions (MOS, by G.109), and of shares.
const OPINIONS: [f64; 8] = [2.0, 2.58, 3.1, 3.6, 4.0, 4.2, 4.3, 4.4];
const SHARES: [f64; 9] = [0.0, 0.001, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2];

/// Why telemetry could not begin.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `log.filter` can't be read.
    #[error("log.filter is not a filter")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Something in this process logs already.
    #[error("logging has begun already")]
    Logging(#[from] tracing_subscriber::util::TryInitError),
    /// The metrics.
    #[error("metrics could not begin")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
}

/// Begins logging to standard error: one JSON object a line, or lines for people.
pub fn log(log: &Log) -> Result<(), TelemetryError> {
    use tracing_subscriber::util::SubscriberInitExt;
    let filter = EnvFilter::builder().parse(&log.filter)?;
    let human = match log.format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Json => false,
        LogFormat::Human => true,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if human {
        builder.with_target(false).compact().finish().try_init()?;
    } else {
        builder.fmt_fields(JsonFields::new()).event_format(json::FlatJson).finish().try_init()?;
    }
    Ok(())
}

/// Begins counting; the handle renders what Prometheus reads.
pub fn metrics() -> Result<PrometheusHandle, TelemetryError> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("mos".into()), &OPINIONS)?
        .set_buckets_for_metric(Matcher::Suffix("ratio".into()), &SHARES)?;
    Ok(builder.install_recorder()?)
}
