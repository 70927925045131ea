//! Limits of the bodies that are read into memory.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use prometheus::IntGauge;

use super::{Bodies, BodyError, Budget, Full, Held, INSPECTION_COST, Owner, Pace};
use crate::authz::UserId;
use crate::http::ReadError;

/// A body in pieces of this size, with or without an announced length.
struct Piecewise {
    left: usize,
    piece: usize,
    announced: bool,
}

impl http_body::Body for Piecewise {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let count = self.piece.min(self.left);
        self.left -= count;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![b'x'; count])))))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        if self.announced { http_body::SizeHint::with_exact(self.left as u64) } else { http_body::SizeHint::default() }
    }
}

fn bodies(total: usize) -> (Bodies, IntGauge) {
    let reserved = IntGauge::new("reserved", "in use").expect("a gauge");
    let pace = Pace { first: Duration::from_secs(5), whole: Duration::from_secs(10), bytes_per_second: 1000 };
    (
        Bodies { budget: Arc::new(Budget::new(total, reserved.clone()).with_wait(Duration::from_millis(50))), pace },
        reserved,
    )
}

const ALICE: Owner = Owner::User(UserId(1));
const BOB: Owner = Owner::User(UserId(2));

async fn read(bodies: &Bodies, owner: Owner, left: usize, limit: usize) -> Result<Held, BodyError> {
    bodies.read(Some(&mut Piecewise { left, piece: 1000, announced: true }), owner, limit).await
}

#[tokio::test]
async fn a_body_arrives_whole_whatever_its_pieces() {
    let (bodies, reserved) = bodies(10_000_000);
    for left in [0, 1, 999, 1000, 1001, 200_000] {
        for piece in [1, 7, 1000, 500_000] {
            for announced in [true, false] {
                let held = bodies.read(Some(&mut Piecewise { left, piece, announced }), ALICE, 200_000).await;
                let held = held.expect("a body");
                assert_eq!(held.bytes.len(), left, "{piece} {announced}");
                assert_eq!(reserved.get(), (left * INSPECTION_COST) as i64, "{left} {piece} {announced}");
            }
        }
    }
    assert_eq!(reserved.get(), 0);
    assert!(matches!(
        read(&bodies, ALICE, 2000, 1999).await,
        Err(BodyError::Read(ReadError::TooLarge { limit: 1999 }))
    ));
    let unannounced = bodies.read(Some(&mut Piecewise { left: 2000, piece: 1, announced: false }), ALICE, 1999).await;
    assert!(matches!(unannounced, Err(BodyError::Read(ReadError::TooLarge { .. }))));
    assert_eq!(reserved.get(), 0);
}

#[tokio::test]
async fn one_caller_has_half_of_the_budget_and_everybody_the_rest() {
    let (bodies, reserved) = bodies(6_000_000);
    let first = read(&bodies, ALICE, 960_000, 1_000_000).await.expect("room");
    assert!(matches!(read(&bodies, ALICE, 200_000, 1_000_000).await, Err(BodyError::NoRoom(Full::Callers))));
    let second = read(&bodies, BOB, 1_000_000, 1_000_000).await.expect("the other half");
    let visitors = read(&bodies, Owner::Visitor(IpAddr::from([192, 0, 2, 1])), 50_000, 1_000_000).await;
    assert!(matches!(visitors, Err(BodyError::NoRoom(Full::Everybodys))));
    drop((first, second));
    assert_eq!(reserved.get(), 0);
    assert_eq!(bodies.budget.owners(), 0);
    read(&bodies, ALICE, 1_000_000, 1_000_000).await.expect("room again");
}

#[tokio::test]
async fn visitors_have_a_small_part_of_the_budget_and_each_network_less() {
    let (bodies, reserved) = bodies(6_000_000);
    let visitor = |number: u8| Owner::Visitor(IpAddr::from([192, 0, 2, number]));
    let mut held = vec![read(&bodies, visitor(0), 50_000, 50_000).await.expect("room")];
    assert!(matches!(read(&bodies, visitor(0), 50_000, 50_000).await, Err(BodyError::NoRoom(Full::Callers))));
    for number in 1..10 {
        held.push(read(&bodies, visitor(number), 50_000, 50_000).await.expect("another network"));
    }
    assert!(matches!(read(&bodies, visitor(10), 50_000, 50_000).await, Err(BodyError::NoRoom(Full::Callers))));
    read(&bodies, ALICE, 1_000_000, 1_000_000).await.expect("the users' part");
    drop(held);
    assert_eq!(reserved.get(), 0);
    read(&bodies, visitor(10), 50_000, 50_000).await.expect("room again");
}

/// A body that announces much, sends two bytes, and stops.
struct Stalled(u8);

impl http_body::Body for Stalled {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0 == 0 {
            return Poll::Pending;
        }
        self.0 -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(1_000_000)
    }
}

#[tokio::test]
async fn an_announced_length_reserves_nothing() {
    let (bodies, reserved) = bodies(6_000_000);
    let mut body = Stalled(2);
    let mut reading = std::pin::pin!(bodies.read(Some(&mut body), ALICE, 1_000_000));
    assert!(reading.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
    assert!(reserved.get() <= 3 * 1024, "{}", reserved.get());
}

#[tokio::test]
async fn a_body_waits_for_room_that_is_given_back() {
    let (bodies, _) = bodies(6_000_000);
    let first = read(&bodies, ALICE, 1_000_000, 1_000_000).await.expect("room");
    let (second, ()) = tokio::join!(read(&bodies, ALICE, 1_000_000, 1_000_000), async {
        tokio::task::yield_now().await;
        drop(first);
    });
    second.expect("room");
}

#[test]
fn the_pace_has_a_grace_period_and_an_end() {
    let pace = Pace { first: Duration::from_secs(5), whole: Duration::from_secs(10), bytes_per_second: 1000 };
    for (seen, seconds) in [(0, 5), (1000, 6), (4000, 9), (5000, 10), (1_000_000, 10)] {
        assert_eq!(pace.allowed(seen), Duration::from_secs(seconds), "{seen}");
    }
}
