use super::*;

#[test]
fn requests_are_counted_by_operation_and_class() {
    let metrics = Metrics::new(["get_run", "log_metric"]).unwrap();
    metrics.request("get_run", RequestKind::Api, 200, Duration::from_millis(3));
    metrics.request("get_run", RequestKind::Api, 204, Duration::from_millis(3));
    metrics.request("get_run", RequestKind::Refused, 403, Duration::ZERO);
    metrics.request("whatever a client might choose", RequestKind::Own, 700, Duration::ZERO);
    metrics.denied("not_granted");
    metrics.authentication_failed("expired_token");
    metrics.upstream_failed("connect");
    metrics.identities.hits.inc();
    let text = metrics.render();
    for line in [
        "mlflow_auth_proxy_requests_total{operation=\"get_run\",status=\"2xx\"} 2",
        "mlflow_auth_proxy_requests_total{operation=\"get_run\",status=\"4xx\"} 1",
        "mlflow_auth_proxy_requests_total{operation=\"other\",status=\"5xx\"} 1",
        "mlflow_auth_proxy_request_duration_seconds_bucket{kind=\"api\",le=\"0.005\"} 2",
        "mlflow_auth_proxy_denials_total{reason=\"not_granted\"} 1",
        "mlflow_auth_proxy_authentication_failures_total{reason=\"expired_token\"} 1",
        "mlflow_auth_proxy_upstream_errors_total{kind=\"connect\"} 1",
        "mlflow_auth_proxy_cache_total{cache=\"identities\",result=\"hit\"} 1",
        "mlflow_auth_proxy_cache_total{cache=\"resources\",result=\"miss\"} 0",
        "mlflow_auth_proxy_connections 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(!text.contains("log_metric"), "operations nobody called make no series");
}

#[test]
fn the_process_is_measured() {
    let metrics = Metrics::new([]).unwrap();
    let text = metrics.render();
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.trim().parse().unwrap()
    };
    assert!(value("process_resident_memory_bytes ") > 1e6);
    assert!(value("process_open_fds ") > 2.0);
    assert!(value("process_max_fds ") > 2.0);
    assert!(value("process_threads ") >= 1.0);
    assert!(value("process_start_time_seconds ") > 1e9);
    assert!(value("process_virtual_memory_bytes ") > 1e6);
    assert!(value("process_cpu_seconds_total ") >= 0.0);
}
