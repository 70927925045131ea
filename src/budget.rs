//! Memory that requests share while they hold what was sent to them whole: bodies under inspection, and MLflow's answers until
//! their clients have read them.
//!
//! Each user holds at most half of a budget, and visitors less. A request that does not fit waits for a moment and is then
//! refused. In addition to the budget, each owner has an allowance for small answers, so that users still see their small lists
//! when others hold all of the budget.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use prometheus::IntGauge;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::authz::UserId;
use crate::http::{Body, ReadError};

/// Time that a request waits for memory before it is refused.
const WAIT: Duration = Duration::from_secs(2);

/// Divisors of the budget for the parts that all visitors, and those of one network, can hold. The rest is for users.
const VISITORS: usize = 4;
const NETWORKS: usize = 32;

/// Account to which the memory of a body is charged. A user can hold at most half of the budget.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Owner {
    User(UserId),
    /// The callers without an account that share a network. Each network can hold at most a part of the budget, and so can
    /// all of them together.
    Visitor(IpAddr),
}

/// Limit that a request exceeded: the whole budget, or the caller's part of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Full {
    Everybodys,
    Callers,
}

/// A memory budget in bytes.
#[derive(Debug)]
pub struct Budget {
    total: usize,
    /// Time that a request waits for other requests to free memory.
    wait: Duration,
    used: Mutex<Used>,
    freed: Notify,
    reserved: IntGauge,
}

#[derive(Debug, Default)]
struct Used {
    total: usize,
    /// Of these, the bytes of visitors.
    visitors: usize,
    by_owner: HashMap<Owner, Account>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// Bytes of the budget.
    held: usize,
    /// Bytes of the allowance for small answers.
    small: usize,
}

impl Budget {
    /// Creates a budget of `total` bytes. The gauge `reserved` shows the bytes in use.
    #[must_use]
    pub fn new(total: usize, reserved: IntGauge) -> Self {
        Self { total, wait: WAIT, used: Mutex::default(), freed: Notify::new(), reserved }
    }

    /// Returns this budget with another waiting time.
    #[cfg(test)]
    pub(crate) fn with_wait(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    /// Returns the number of owners that hold memory.
    #[cfg(test)]
    pub(crate) fn owners(&self) -> usize {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).by_owner.len()
    }

    fn try_take(&self, owner: Owner, bytes: usize) -> Result<(), Full> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.total.saturating_add(bytes) > self.total {
            return Err(Full::Everybodys);
        }
        let mut account = used.by_owner.get(&owner).copied().unwrap_or_default();
        account.held = account.held.saturating_add(bytes);
        let (most, visitors) = match owner {
            Owner::User(_) => (self.total / 2, 0),
            Owner::Visitor(_) => (self.total / NETWORKS, bytes),
        };
        if account.held > most || used.visitors + visitors > self.total / VISITORS {
            return Err(Full::Callers);
        }
        used.by_owner.insert(owner, account);
        used.total += bytes;
        used.visitors += visitors;
        drop(used);
        self.reserved.add(i64::try_from(bytes).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Takes from the owner's allowance for small answers, if there is room.
    fn try_take_small(&self, owner: Owner, bytes: usize) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut account = used.by_owner.get(&owner).copied().unwrap_or_default();
        account.small = account.small.saturating_add(bytes);
        if account.small > SMALL_BYTES_PER_OWNER {
            return false;
        }
        used.by_owner.insert(owner, account);
        drop(used);
        self.reserved.add(i64::try_from(bytes).unwrap_or(i64::MAX));
        true
    }

    fn give_back(&self, owner: Owner, less: Account) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.total = used.total.saturating_sub(less.held);
        if let Owner::Visitor(_) = owner {
            used.visitors = used.visitors.saturating_sub(less.held);
        }
        if let Some(account) = used.by_owner.get_mut(&owner) {
            account.held = account.held.saturating_sub(less.held);
            account.small = account.small.saturating_sub(less.small);
            if account.held == 0 && account.small == 0 {
                used.by_owner.remove(&owner);
            }
        }
        drop(used);
        self.reserved.sub(i64::try_from(less.held + less.small).unwrap_or(i64::MAX));
        self.freed.notify_waiters();
    }
}

/// Memory reserved from a budget, returned to it on drop.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    owner: Owner,
    own: Account,
}

impl Share {
    /// Returns the largest size of a share in bytes.
    #[must_use]
    pub fn most(&self) -> usize {
        self.budget.total / 2
    }

    /// Creates an empty share for this owner.
    #[must_use]
    pub fn of(budget: &Arc<Budget>, owner: Owner) -> Self {
        Self { budget: Arc::clone(budget), owner, own: Account::default() }
    }

    /// Returns the memory that this share reserves.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.own.held + self.own.small
    }

    /// Returns the bytes tied to this share, which is released when the last of them is dropped, as after sending. Up to
    /// [`TINY_BYTES`] they are tied to none, because the number of a connection's streams bounds them.
    ///
    /// # Errors
    /// The limit that was still exceeded after the wait.
    pub async fn keep(mut self, mut bytes: Bytes) -> Result<Bytes, Full> {
        // A piece of a connection's buffer keeps all of it in memory.
        if bytes.len() < BUFFER_BYTES && !bytes.is_unique() {
            bytes = Bytes::copy_from_slice(&bytes);
        }
        if bytes.len() <= TINY_BYTES {
            return Ok(bytes);
        }
        self.reserve(bytes.len()).await?;
        self.shrink(bytes.len());
        Ok(Bytes::from_owner(Kept { bytes, _share: self }))
    }

    /// Reserves memory like [`Share::grow`]; up to [`FREE_BYTES`] from the owner's allowance for small answers while that has
    /// room.
    ///
    /// # Errors
    /// As [`Share::grow`].
    pub async fn reserve(&mut self, bytes: usize) -> Result<(), Full> {
        let more = bytes.saturating_sub(self.held());
        if more > 0 && bytes <= FREE_BYTES && self.budget.try_take_small(self.owner, more) {
            self.own.small += more;
            return Ok(());
        }
        self.grow(bytes).await
    }

    /// Reserves memory until this share holds `bytes`, waiting briefly for other requests if necessary.
    ///
    /// # Errors
    /// The limit that was still exceeded after the wait.
    pub async fn grow(&mut self, bytes: usize) -> Result<(), Full> {
        if !self.grow_at_once(bytes) {
            let more = bytes.saturating_sub(self.held());
            self.wait(more).await?;
            self.own.held += more;
        }
        Ok(())
    }

    /// Reserves memory until this share holds `bytes`. Returns false, without waiting, if there is not enough.
    pub fn grow_at_once(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.held());
        let fits = more == 0 || self.budget.try_take(self.owner, more).is_ok();
        self.own.held += if fits { more } else { 0 };
        fits
    }

    async fn wait(&self, more: usize) -> Result<(), Full> {
        let mut late = pin!(sleep(self.budget.wait));
        loop {
            let mut freed = pin!(self.budget.freed.notified());
            // Registered before the check, so that memory freed between the check and the wait is noticed.
            freed.as_mut().enable();
            let Err(full) = self.budget.try_take(self.owner, more) else { return Ok(()) };
            tokio::select! {
                () = freed => {}
                () = late.as_mut() => return Err(full),
            }
        }
    }

    /// Releases everything beyond `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        let less = self.held().saturating_sub(bytes);
        if less > 0 {
            let held = less.min(self.own.held);
            let less = Account { held, small: less - held };
            self.budget.give_back(self.owner, less);
            self.own.held -= less.held;
            self.own.small -= less.small;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

struct Kept {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reasons why a response was not read.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("too many large answers are being filtered or sent")]
    NoRoom(Full),
}

/// Reads a response of at most `limit` bytes completely. `share` grows to `beside`, which its request holds already, plus
/// [`ANSWER_COST`] times the response. Up to [`FREE_BYTES`], a response needs no share until it is kept for its client.
///
/// # Errors
/// See [`AnswerError`].
pub async fn read_answer<B>(body: B, limit: usize, beside: usize, share: &mut Share) -> Result<Bytes, AnswerError>
where
    B: http_body::Body<Data = Bytes>,
{
    // A response that declares its size is refused before any of it is read.
    if body.size_hint().lower() > limit as u64 {
        return Err(ReadError::TooLarge { limit }.into());
    }
    let mut body = pin!(body);
    let mut pieces: Vec<Bytes> = Vec::new();
    let mut size = 0_usize;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| ReadError::Broken)?.into_data() else { continue };
        size += data.len();
        if size > limit {
            return Err(ReadError::TooLarge { limit }.into());
        }
        let whole = beside.saturating_add(size.saturating_mul(ANSWER_COST));
        if whole > FREE_BYTES.saturating_mul(ANSWER_COST) {
            share.grow(whole).await.map_err(AnswerError::NoRoom)?;
        }
        pieces.push(data);
    }
    if let [only] = pieces.as_slice() {
        return Ok(only.clone());
    }
    let mut all = Vec::with_capacity(size);
    for piece in pieces {
        all.extend_from_slice(&piece);
    }
    Ok(all.into())
}

/// Returns the memory to reserve for MLflow's answer to a creation, which repeats the request with every character escaped and
/// indented.
#[must_use]
pub fn expected_answer(request: &Body) -> usize {
    let sent = match request {
        Body::Full { bytes } => bytes.as_ref().map_or(0, Bytes::len),
        Body::Empty | Body::Streamed { .. } | Body::Lent { .. } => 0,
    };
    sent.saturating_mul(3).saturating_add(16 * 1024)
}

/// Memory that a response takes while it is read and filtered, as a multiple of its size: its frames and the joined
/// body, or later the body, the rows that are kept, and the filtered response.
pub const ANSWER_COST: usize = 3;

/// Size up to which answers are not counted while they are read. They then have an allowance beside the budget, so that users
/// receive their small lists when the budget is used up.
pub const FREE_BYTES: usize = 256 * 1024;

/// Allowance of one owner for small answers, beside the budget.
const SMALL_BYTES_PER_OWNER: usize = 8 * 1024 * 1024;

/// Size up to which answers are never counted. A client that reads none of them holds one for each stream of its connection.
pub const TINY_BYTES: usize = 4 * 1024;

/// The buffer of a connection to MLflow, of which an answer in one piece is a part.
const BUFFER_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use http_body_util::Full as Whole;

    use super::*;

    const ALICE: Owner = Owner::User(UserId(1));
    const BOB: Owner = Owner::User(UserId(2));

    fn budget(total: usize) -> (Arc<Budget>, IntGauge) {
        let reserved = IntGauge::new("reserved", "in use").expect("a gauge");
        (Arc::new(Budget::new(total, reserved.clone()).with_wait(Duration::from_millis(20))), reserved)
    }

    async fn read(share: &mut Share, size: usize, limit: usize) -> Result<Bytes, AnswerError> {
        read_answer(Whole::new(Bytes::from(vec![b'x'; size])), limit, 0, share).await
    }

    #[tokio::test]
    async fn an_answer_holds_its_share_until_its_last_byte_is_dropped() {
        const SIZE: usize = 1024 * 1024;
        let (budget, reserved) = budget(8 * SIZE);
        let mut share = Share::of(&budget, ALICE);
        let bytes = read(&mut share, SIZE, SIZE).await.expect("room");
        assert_eq!(reserved.get(), (SIZE * ANSWER_COST) as i64);
        let mut sent = share.keep(bytes).await.expect("it is read");
        assert_eq!((sent.len(), reserved.get()), (SIZE, SIZE as i64));
        let first = sent.split_to(10);
        drop(sent);
        assert_eq!(reserved.get(), SIZE as i64, "a part of it is not sent yet");
        let mut second = Share::of(&budget, ALICE);
        let refused = read(&mut second, 2 * SIZE, 2 * SIZE).await;
        assert!(matches!(refused, Err(AnswerError::NoRoom(Full::Callers))), "{refused:?}");
        let mut others = Share::of(&budget, BOB);
        read(&mut others, SIZE, SIZE).await.expect("room for another user");
        drop((first, second, others));
        assert_eq!((reserved.get(), budget.owners()), (0, 0));
    }

    #[tokio::test]
    async fn small_answers_have_an_allowance_and_large_ones_are_refused() {
        let (budget, reserved) = budget(1000);
        let mut kept = Vec::new();
        for _ in 0..SMALL_BYTES_PER_OWNER / FREE_BYTES {
            let mut share = Share::of(&budget, ALICE);
            let bytes = read(&mut share, FREE_BYTES, FREE_BYTES).await.expect("it is small");
            kept.push(share.keep(bytes).await.expect("it is small"));
        }
        assert_eq!(reserved.get(), SMALL_BYTES_PER_OWNER as i64, "no answer is free until it is sent");
        let small = Bytes::from(vec![b'x'; FREE_BYTES]);
        assert_eq!(Share::of(&budget, ALICE).keep(small.clone()).await, Err(Full::Everybodys));
        assert_eq!(Share::of(&budget, BOB).keep(small.clone()).await.as_deref(), Ok(&*small), "another user's");
        let tiny = Bytes::from(vec![b'x'; TINY_BYTES]);
        assert_eq!(Share::of(&budget, ALICE).keep(tiny.clone()).await, Ok(tiny));
        drop(kept);
        assert_eq!((reserved.get(), budget.owners()), (0, 0));
        let mut share = Share::of(&budget, ALICE);
        let refused = read(&mut share, 11, 10).await;
        assert!(matches!(refused, Err(AnswerError::Read(ReadError::TooLarge { limit: 10 }))), "{refused:?}");
    }
}
