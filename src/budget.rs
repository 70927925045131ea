//! Memory that requests share while they hold what was sent to them whole: bodies under inspection, and MLflow's answers that are
//! filtered.
//!
//! Each owner holds at most half of a budget. What does not fit waits for a moment and is then refused.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use prometheus::IntGauge;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::authz::UserId;
use crate::http::ReadError;

/// Time that a request waits for others to be done before it is refused.
const WAIT: Duration = Duration::from_secs(2);

/// The account that a body's memory is charged to. Each holds at most half of the budget.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Owner {
    User(UserId),
    /// All callers who are not signed in, together.
    Visitors,
}

/// The part of the budget that is used up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Full {
    Everybodys,
    Callers,
}

/// An amount of memory.
#[derive(Debug)]
pub struct Budget {
    total: usize,
    /// Time that a request waits for other bodies to be done.
    wait: Duration,
    used: Mutex<Used>,
    freed: Notify,
    reserved: IntGauge,
}

#[derive(Debug, Default)]
struct Used {
    total: usize,
    by_owner: HashMap<Owner, usize>,
}

impl Budget {
    /// An amount of `total` bytes, of which `reserved` shows what is in use.
    #[must_use]
    pub fn new(total: usize, reserved: IntGauge) -> Self {
        Self { total, wait: WAIT, used: Mutex::default(), freed: Notify::new(), reserved }
    }

    /// The same with another time to wait.
    #[cfg(test)]
    pub(crate) fn with_wait(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    /// The number of owners that hold something.
    #[cfg(test)]
    pub(crate) fn owners(&self) -> usize {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).by_owner.len()
    }

    fn try_take(&self, owner: Owner, bytes: usize) -> Result<(), Full> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.total.saturating_add(bytes) > self.total {
            return Err(Full::Everybodys);
        }
        let own = used.by_owner.get(&owner).copied().unwrap_or_default().saturating_add(bytes);
        if own > self.total / 2 {
            return Err(Full::Callers);
        }
        used.by_owner.insert(owner, own);
        used.total += bytes;
        drop(used);
        self.reserved.add(i64::try_from(bytes).unwrap_or(i64::MAX));
        Ok(())
    }

    fn give_back(&self, owner: Owner, bytes: usize) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.total = used.total.saturating_sub(bytes);
        if let Some(own) = used.by_owner.get_mut(&owner) {
            *own = own.saturating_sub(bytes);
            if *own == 0 {
                used.by_owner.remove(&owner);
            }
        }
        drop(used);
        self.reserved.sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.freed.notify_waiters();
    }
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    owner: Owner,
    held: usize,
}

impl Share {
    /// The most that a share can become.
    #[must_use]
    pub fn most(&self) -> usize {
        self.budget.total / 2
    }

    /// Nothing yet, of this owner's part.
    #[must_use]
    pub fn of(budget: &Arc<Budget>, owner: Owner) -> Self {
        Self { budget: Arc::clone(budget), owner, held: 0 }
    }

    /// Bytes that hold this share until the last of them is dropped, as when they were sent.
    #[must_use]
    pub fn keep(mut self, bytes: Bytes) -> Bytes {
        self.shrink(bytes.len());
        if self.held == 0 { bytes } else { Bytes::from_owner(Kept { bytes, _share: self }) }
    }

    /// Reserves memory until this share holds `bytes`; waits for other bodies for a moment.
    ///
    /// # Errors
    /// The part of the budget that was still used up then.
    pub async fn grow(&mut self, bytes: usize) -> Result<(), Full> {
        if !self.grow_at_once(bytes) {
            let more = bytes.saturating_sub(self.held);
            self.wait(more).await?;
            self.held += more;
        }
        Ok(())
    }

    /// Reserves memory until this share holds `bytes`, if there is room now.
    pub fn grow_at_once(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.held);
        let fits = self.budget.try_take(self.owner, more).is_ok();
        self.held += if fits { more } else { 0 };
        fits
    }

    async fn wait(&self, more: usize) -> Result<(), Full> {
        let mut late = pin!(sleep(self.budget.wait));
        loop {
            let mut freed = pin!(self.budget.freed.notified());
            // Before the look, so that nothing that is freed in between is missed.
            freed.as_mut().enable();
            let Err(full) = self.budget.try_take(self.owner, more) else { return Ok(()) };
            tokio::select! {
                () = freed => {}
                () = late.as_mut() => return Err(full),
            }
        }
    }

    /// Gives back what is held beyond `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        let less = self.held.saturating_sub(bytes);
        if less > 0 {
            self.budget.give_back(self.owner, less);
            self.held -= less;
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

/// Why an answer was not read.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("too many large answers are being filtered or sent")]
    NoRoom(Full),
}

/// Reads an answer of at most `limit` bytes whole. `share` grows to `beside`, what its request holds already, and
/// [`ANSWER_COST`] times the answer; up to [`FREE_BYTES`] it needs none.
///
/// # Errors
/// See [`AnswerError`].
pub async fn read_answer<B>(body: B, limit: usize, beside: usize, share: &mut Share) -> Result<Bytes, AnswerError>
where
    B: http_body::Body<Data = Bytes>,
{
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

/// What an answer takes while it is read and filtered, in times its size: its pieces and the whole, or the whole, the rows that
/// are kept of it, and what is sent.
pub const ANSWER_COST: usize = 3;

/// Answers up to this size are not counted: users with full shares still see their small lists.
pub const FREE_BYTES: usize = 256 * 1024;

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
        let mut sent = share.keep(bytes);
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
    async fn small_answers_need_no_room_and_large_ones_are_refused() {
        let (budget, reserved) = budget(1000);
        let mut share = Share::of(&budget, ALICE);
        let bytes = read(&mut share, FREE_BYTES, FREE_BYTES).await.expect("it is small");
        assert_eq!((share.keep(bytes).len(), reserved.get()), (FREE_BYTES, 0));
        let mut share = Share::of(&budget, ALICE);
        let refused = read(&mut share, 11, 10).await;
        assert!(matches!(refused, Err(AnswerError::Read(ReadError::TooLarge { limit: 10 }))), "{refused:?}");
    }
}
