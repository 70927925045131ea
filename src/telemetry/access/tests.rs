use std::sync::mpsc;

use proptest::prelude::*;

use super::*;

fn line() -> AccessLine<'static> {
    AccessLine {
        time: Timestamp(1_795_200_900_123).into(),
        operation: "get_run",
        method: "GET",
        status: 200,
        duration_ms: 1.234_567,
        upstream_ms: Some(0.5),
        user: Some("alice"),
        scheme: Some("token"),
        address: IpAddr::from([10, 0, 0, 1]),
        denied: None,
        bytes_sent: 1019,
        request_id: None,
        outcome: Outcome::Complete,
    }
}

fn rendered(line: &AccessLine<'_>, format: LogFormat) -> String {
    let mut text = Vec::new();
    line.render(format, &mut text);
    String::from_utf8(text).unwrap()
}

/// Output that a test can look at.
struct Pipe(mpsc::Sender<Vec<u8>>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(std::io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_line_is_json_or_text() {
    assert_eq!(
        rendered(&line(), LogFormat::Json),
        "{\"time\":\"2026-11-20T18:55:00.123Z\",\"operation\":\"get_run\",\"method\":\"GET\",\"status\":200,\
         \"duration_ms\":1.235,\"upstream_ms\":0.5,\"user\":\"alice\",\"scheme\":\"token\",\"address\":\"10.0.0.1\",\
         \"bytes_sent\":1019,\"outcome\":\"complete\"}\n"
    );
    let refused = AccessLine { denied: Some("not_granted"), outcome: Outcome::Aborted, ..line() };
    assert_eq!(
        rendered(&refused, LogFormat::Text),
        "2026-11-20T18:55:00.123Z 200 GET get_run 1.235ms address=10.0.0.1 sent=1019 user=alice scheme=token \
         denied=not_granted upstream=0.500ms aborted\n"
    );
}

#[test]
fn lines_are_written_in_order_and_flushed_at_the_end() {
    let (sender, written) = mpsc::channel();
    let metrics = Arc::new(Metrics::new([]).unwrap());
    let (log, writer) = AccessLog::start(LogFormat::Json, Arc::clone(&metrics), Pipe(sender)).unwrap();
    for status in 200..300 {
        log.write(&AccessLine { status, ..line() });
    }
    writer.finish();
    let text = String::from_utf8(written.iter().flatten().collect()).unwrap();
    let statuses: Vec<u64> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["status"].as_u64().unwrap())
        .collect();
    assert_eq!(statuses, (200..300).collect::<Vec<_>>());
    log.write(&line());
    assert_eq!(metrics.access_lines_dropped.get(), 1, "too late");
}

#[test]
fn a_stuck_output_costs_lines_not_requests() {
    struct Stuck(mpsc::Receiver<()>);
    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.recv(); // until the test lets go
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (release, stuck) = mpsc::channel();
    let metrics = Arc::new(Metrics::new([]).unwrap());
    let (log, writer) = AccessLog::start(LogFormat::Json, Arc::clone(&metrics), Stuck(stuck)).unwrap();
    for _ in 0..20_000 {
        log.write(&line());
    }
    assert!(metrics.access_lines_dropped.get() > 0);
    drop(release);
    writer.finish();
}

proptest! {
    #[test]
    fn nothing_breaks_out_of_its_line(user in any::<String>(), method in any::<String>()) {
        let line = AccessLine { user: Some(&user), method: &method, ..line() };
        let json = rendered(&line, LogFormat::Json);
        prop_assert_eq!(json.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(value["user"].as_str(), Some(user.as_str()));
        let text = rendered(&line, LogFormat::Text);
        prop_assert_eq!(text.trim_end_matches('\n').split(' ').count(), 10);
        let inside = text.trim_end_matches('\n');
        let harmless = inside.chars().all(|c| !c.is_control() && c as u32 != 0x2028);
        prop_assert!(harmless);
    }

    #[test]
    fn moments_are_rfc_3339(millis in FIRST_YEAR..LAST_YEAR) {
        let text = Rfc3339::from(Timestamp(millis));
        let format = ::time::format_description::well_known::Rfc3339;
        let parsed = ::time::OffsetDateTime::parse(text.as_str(), &format).unwrap();
        prop_assert_eq!(parsed.unix_timestamp_nanos(), i128::from(millis) * 1_000_000);
    }
}

const FIRST_YEAR: i64 = -62_135_596_800_000;
const LAST_YEAR: i64 = 253_402_300_799_999;

/// Not a benchmark: a bound that only a blunder breaks.
#[test]
fn a_line_costs_little() {
    let metrics = Arc::new(Metrics::new([]).unwrap());
    let (log, writer) = AccessLog::start(LogFormat::Json, metrics, std::io::sink()).unwrap();
    let watch = crate::clock::Stopwatch::start();
    for _ in 0..1000 {
        log.write(&line());
    }
    let took = watch.elapsed();
    writer.finish();
    assert!(took < Duration::from_secs(2), "{took:?} for 1000 lines");
}
