//! TLS to collectors, by the standard variables of OpenTelemetry.

use super::raw::RawCollectorTls;
use super::reader::Reader;
use crate::tls::{ClientTls, Identity};

/// TLS to the collector of each signal. The scheme of the URL decides whether it is used.
pub(super) struct CollectorTls {
    pub(super) metrics: ClientTls,
    pub(super) traces: ClientTls,
}

/// A file, with the name of its variable.
type NamedFile<'r> = (&'static str, Option<&'r String>);

/// Reads the settings. A client certificate without its key is an error, and so is a key without its certificate.
pub(super) fn read(raw: &RawCollectorTls, reader: &mut Reader) -> CollectorTls {
    let all = identity(
        [
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", raw.otel_exporter_otlp_client_certificate.as_ref()),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", raw.otel_exporter_otlp_client_key.as_ref()),
        ],
        reader,
    );
    let metrics = identity(
        [
            (
                "OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE",
                raw.otel_exporter_otlp_metrics_client_certificate.as_ref(),
            ),
            ("OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", raw.otel_exporter_otlp_metrics_client_key.as_ref()),
        ],
        reader,
    );
    let traces = identity(
        [
            (
                "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
                raw.otel_exporter_otlp_traces_client_certificate.as_ref(),
            ),
            ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", raw.otel_exporter_otlp_traces_client_key.as_ref()),
        ],
        reader,
    );
    let client = |ca: &Option<String>, identity: Option<Identity>| ClientTls {
        ca: ca.as_ref().or(raw.otel_exporter_otlp_certificate.as_ref()).map(Into::into),
        identity: identity.or_else(|| all.clone()),
        verify_hostname: true,
    };
    CollectorTls {
        metrics: client(&raw.otel_exporter_otlp_metrics_certificate, metrics),
        traces: client(&raw.otel_exporter_otlp_traces_certificate, traces),
    }
}

fn identity(
    [(certificate_name, certificate), (key_name, key)]: [NamedFile<'_>; 2],
    reader: &mut Reader,
) -> Option<Identity> {
    match (certificate, key) {
        (Some(certificate), Some(key)) => Some(Identity { certificate: certificate.into(), key: key.into() }),
        (None, None) => None,
        (Some(_), None) => {
            reader.error(certificate_name, format!("{key_name} beside it"), None);
            None
        }
        (None, Some(_)) => {
            reader.error(key_name, format!("{certificate_name} beside it"), None);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::settings::Settings;
    use crate::tls::ClientTls;

    const ALL: [(&str, &str); 4] = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4317"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "crt"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "key"),
    ];

    fn read(more: &[(&str, &str)]) -> [Option<ClientTls>; 2] {
        let variables = [&[("OTEL_METRICS_EXPORTER", "otlp")], &ALL[..], more].concat();
        let settings = Settings::from_variables(&variables).unwrap();
        [settings.otlp.unwrap().tls, settings.traces.unwrap().tls]
    }

    #[test]
    fn files_of_one_signal_replace_those_for_all() {
        let [metrics, traces] = read(&[
            ("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", "metrics-ca"),
            ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "traces-crt"),
            ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "traces-key"),
        ])
        .map(Option::unwrap);
        assert_eq!(metrics.ca.as_deref(), Some(Path::new("metrics-ca")));
        assert_eq!(metrics.identity.unwrap().key, Path::new("key"));
        assert_eq!(traces.ca.as_deref(), Some(Path::new("ca")));
        assert_eq!(traces.identity.unwrap().key, Path::new("traces-key"));
    }

    #[test]
    fn the_url_decides_whether_tls_is_used() {
        let plain = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://collector:4317");
        let [metrics, traces] = read(&[plain]);
        assert!(metrics.is_none() && traces.is_some());
    }

    #[test]
    fn a_certificate_without_its_key_is_an_error() {
        for name in ["OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY"] {
            let errors = Settings::from_variables(&[(name, "file")]).unwrap_err().to_string();
            assert!(errors.contains(name) && errors.contains("beside it"), "{errors}");
        }
    }
}
