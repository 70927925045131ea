use std::sync::atomic::AtomicUsize;

use hyper_util::rt::TokioIo;
use prometheus::Opts;
use tokio::io::DuplexStream;

use super::*;

const ALICE: UserId = UserId(1);

/// A gate before an address where nothing listens, and how often it was asked.
fn gate(hold: Duration) -> (Arc<Gate>, Arc<AtomicUsize>) {
    let config = config::Upstream {
        url: "http://127.0.0.1:1".parse().unwrap(),
        hold,
        hold_max_requests: 1000,
        hold_max_bytes: 1024 * 1024,
        ..config::defaults().unwrap().upstream
    };
    let holds = Holds {
        waiting: IntGauge::new("waiting", "waiting").unwrap(),
        ended: IntCounterVec::new(Opts::new("ended", "ended"), &["outcome"]).unwrap(),
    };
    let asked = Arc::new(AtomicUsize::new(0));
    let asking = Arc::clone(&asked);
    let nobody = tower::service_fn(move |_: Uri| {
        asking.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Err::<TokioIo<DuplexStream>, std::io::Error>(std::io::ErrorKind::ConnectionRefused.into()))
    });
    let gate = Gate::new(
        &config,
        Some(holds),
        nobody,
        Uri::from_static("http://mlflow/health"),
        HeaderValue::from_static("m"),
    );
    (Arc::new(gate), asked)
}

#[tokio::test]
async fn a_thousand_requests_probe_as_often_as_one() {
    let (gate, asked) = gate(Duration::from_millis(700));
    gate.shut();
    let mut ended = tokio::task::JoinSet::new();
    for user in 0..1000 {
        let gate = Arc::clone(&gate);
        ended.spawn(async move { gate.hold(UserId(user), 0).unwrap().released().await });
    }
    assert!(ended.join_all().await.iter().all(|released| !released));
    // At 0, 100, 300 and 700 ms.
    assert!((1..=4).contains(&asked.load(Ordering::SeqCst)), "{asked:?}");
}

#[tokio::test]
async fn the_next_request_probes_when_the_one_whose_turn_it_is_leaves() {
    let (gate, asked) = gate(Duration::from_secs(20));
    gate.shut();
    let mut first = Box::pin(gate.opened());
    let mut second = Box::pin(gate.opened());
    let mut both = async || {
        tokio::select! {
            _ = &mut first => {}
            _ = &mut second => {}
            () = async { while asked.load(Ordering::SeqCst) == 0 { tokio::task::yield_now().await } } => {}
        }
    };
    both().await;
    drop(first);
    let before = asked.load(Ordering::SeqCst);
    tokio::select! {
        _ = &mut second => {}
        () = async { while asked.load(Ordering::SeqCst) == before { tokio::task::yield_now().await } } => {}
    }
    gate.open();
    assert!(second.await);
}

#[tokio::test]
async fn a_client_comes_again_after_half_of_the_outage() {
    let (gate, _) = gate(Duration::from_secs(1));
    assert_eq!((gate.retry_after(), gate.away()), (1, Duration::ZERO));
    gate.shut();
    assert_eq!(gate.retry_after(), 1);
    gate.open();
    assert!(gate.opened().await);
    gate.shut();
    gate.drain();
    assert!(!gate.opened().await, "nothing waits in a proxy that stops");
}

#[test]
fn room_is_counted_and_given_back() {
    let (off, _) = gate(Duration::ZERO);
    assert!(!off.holds() && off.hold(ALICE, 0).is_err());
    let (gate, _) = gate(Duration::from_secs(1));
    let large: Vec<_> = (1..=4).map(|user| gate.hold(UserId(user), 256 * 1024).unwrap()).collect();
    assert_eq!(gate.hold(UserId(5), 1).err(), Some(CROWDED_SECONDS));
    let small = gate.hold(UserId(5), 0).unwrap();
    assert_eq!(gate.room.as_ref().unwrap().holds.waiting.get(), 5);
    drop((large, small));
    assert_eq!(gate.room.as_ref().unwrap().holds.waiting.get(), 0);
    assert!(gate.hold(UserId(5), 256 * 1024).is_ok());
}

#[test]
fn one_user_gets_an_eighth_of_the_places_and_a_quarter_of_the_bytes() {
    let (gate, _) = gate(Duration::from_secs(1));
    let places: Vec<_> = (0..125).map(|_| gate.hold(ALICE, 0).unwrap()).collect();
    assert_eq!(gate.hold(ALICE, 0).err(), Some(CROWDED_SECONDS));
    assert!(gate.hold(UserId(2), 0).is_ok(), "others have theirs");
    let refused = gate.room.as_ref().unwrap().holds.ended.with_label_values(&["no_share"]);
    assert_eq!(refused.get(), 1);
    drop(places);
    assert!(gate.room.as_ref().unwrap().shares.lock().unwrap().is_empty(), "nothing is left behind");
    assert!(gate.hold(ALICE, 256 * 1024 + 1).is_err());
    let most = gate.hold(ALICE, 256 * 1024).unwrap();
    assert!(gate.hold(ALICE, 1).is_err() && gate.hold(ALICE, 0).is_ok());
    drop(most);
    assert!(gate.hold(ALICE, 1).is_ok());
}
