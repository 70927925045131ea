//! The open connections: their number per address, and the order in which they became idle.
//!
//! A connection is idle while no request is being received and no answer is being produced or sent. The lock is taken
//! when a connection opens or closes, never by a request.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use super::stream::Wire;

/// All open connections.
#[derive(Debug)]
pub(super) struct Register {
    open: Mutex<Open>,
    per_address: usize,
    /// Trusted proxies, which carry the requests of many clients and have no limit per address.
    trusted: Vec<IpNet>,
    /// Number of connections so far. Each connection copies it at its last request, which orders connections by
    /// idleness without a clock.
    epoch: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Open {
    entries: HashMap<u64, Entry>,
    by_address: HashMap<IpAddr, HashSet<u64>>,
    next: u64,
    /// Idle connections of the last search, with the one to close first at the end.
    candidates: Vec<u64>,
}

#[derive(Debug)]
struct Entry {
    wire: Arc<Wire>,
    stop: CancellationToken,
}

impl Entry {
    fn may_be_closed(&self) -> bool {
        self.wire.is_idle() && !self.stop.is_cancelled()
    }
}

/// A connection's place in the register, released on drop.
#[derive(Debug)]
pub(super) struct Entered {
    register: Arc<Register>,
    number: u64,
    address: Option<IpAddr>,
}

/// The address has too many connections, none of them idle.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct TooMany;

impl Register {
    pub(super) fn new(per_address: usize, trusted: Vec<IpNet>) -> Self {
        Self { open: Mutex::default(), per_address, trusted, epoch: Arc::default() }
    }

    /// Creates the shared state of a new connection.
    pub(super) fn wire(&self) -> Wire {
        Wire::new(Arc::clone(&self.epoch))
    }

    /// Registers a connection; cancelling `stop` must end it. At the limit of its address, the longest idle
    /// connection of this address is closed. Returns how many were closed.
    pub(super) fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        wire: Arc<Wire>,
        stop: CancellationToken,
    ) -> Result<(Entered, usize), TooMany> {
        let address = Some(client(address)).filter(|_| !self.is_trusted(address));
        let mut open = self.open();
        let mut closed = 0;
        if let Some(ours) = address.and_then(|address| open.by_address.get(&address))
            && ours.len() >= self.per_address
        {
            let idle = ours.iter().filter_map(|number| open.entries.get_key_value(number));
            let idle = idle.filter(|(_, entry)| entry.may_be_closed());
            let (_, entry) = idle.min_by_key(|(number, entry)| (entry.wire.last(), **number)).ok_or(TooMany)?;
            entry.stop.cancel();
            closed = 1;
        }
        let number = open.next;
        open.next += 1;
        self.epoch.store(open.next, Ordering::Relaxed);
        open.entries.insert(number, Entry { wire, stop });
        if let Some(address) = address {
            open.by_address.entry(address).or_default().insert(number);
        }
        Ok((Entered { register: Arc::clone(self), number, address }, closed))
    }

    /// Closes the longest idle connection of all. Returns true if there was one.
    pub(super) fn close_longest_idle(&self) -> bool {
        let mut open = self.open();
        loop {
            while let Some(number) = open.candidates.pop() {
                // Checked again, because a candidate may have received a request since the search.
                if let Some(entry) = open.entries.get(&number).filter(|entry| entry.may_be_closed()) {
                    entry.stop.cancel();
                    return true;
                }
            }
            open.search();
            if open.candidates.is_empty() {
                return false;
            }
        }
    }

    fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|net| net.contains(&address.to_canonical()))
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Searches all connections for the next [`BATCH`] candidates, so that closing those needs no further search.
    fn search(&mut self) {
        let idle = self.entries.iter().filter(|(_, entry)| entry.may_be_closed());
        let mut idle: Vec<_> = idle.map(|(number, entry)| (entry.wire.last(), *number)).collect();
        if idle.len() > BATCH {
            idle.select_nth_unstable(BATCH);
            idle.truncate(BATCH);
        }
        idle.sort_unstable_by(|one, other| other.cmp(one));
        self.candidates = idle.into_iter().map(|(_, number)| number).collect();
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut open = self.register.open();
        open.entries.remove(&self.number);
        let Some(address) = self.address else { return };
        if let Some(ours) = open.by_address.get_mut(&address) {
            ours.remove(&self.number);
            if ours.is_empty() {
                open.by_address.remove(&address);
            }
        }
    }
}

/// Returns the key for the limit per address: the IPv4 address, or the /64 network of an IPv6 address, which a single
/// host can own.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

/// Number of candidates that one search selects.
const BATCH: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(register: &Arc<Register>, address: &str) -> Result<(Entered, Arc<Wire>, CancellationToken), TooMany> {
        let (wire, stop) = (Arc::new(register.wire()), CancellationToken::new());
        let (entered, _) = register.enter(address.parse().unwrap(), Arc::clone(&wire), stop.clone())?;
        Ok((entered, wire, stop))
    }

    #[test]
    fn an_address_closes_its_own_longest_idle_connection() {
        let register = Arc::new(Register::new(2, Vec::new()));
        let (_other, _, other) = enter(&register, "10.0.0.2").unwrap();
        let (_first, first, _) = enter(&register, "10.0.0.1").unwrap();
        let (_second, _, second) = enter(&register, "::ffff:10.0.0.1").unwrap();
        first.begin();
        first.end();
        let (third, _, _) = enter(&register, "10.0.0.1").unwrap();
        assert!(second.is_cancelled() && !other.is_cancelled());
        drop((_second, third));
        let (_fourth, fourth, _) = enter(&register, "10.0.0.1").unwrap();
        for wire in [&first, &fourth] {
            wire.begin();
        }
        assert_eq!(enter(&register, "10.0.0.1").err(), Some(TooMany), "both are busy");
        enter(&register, "10.0.0.3").unwrap();
    }

    #[test]
    fn hosts_of_one_network_share_a_limit_and_trusted_proxies_have_none() {
        let register = Arc::new(Register::new(1, vec!["10.1.0.0/16".parse().unwrap()]));
        let (_one, wire, _) = enter(&register, "2001:db8::1").unwrap();
        wire.begin();
        assert!(enter(&register, "2001:db8::ffff").is_err());
        let _another = enter(&register, "2001:db8:0:1::1").unwrap();
        let proxies: Vec<_> = (0..3).map(|_| enter(&register, "10.1.2.3").unwrap()).collect();
        assert!(proxies.iter().all(|(_, _, stop)| !stop.is_cancelled()));
    }

    #[test]
    fn the_longest_idle_goes_first_and_the_busy_never() {
        let register = Arc::new(Register::new(1000, Vec::new()));
        let open: Vec<_> = (0..200).map(|_| enter(&register, "10.0.0.1").unwrap()).collect();
        for (number, (_, wire, _)) in open.iter().enumerate() {
            match number {
                0 => wire.begin(),
                1 => wire.set_in_body(true),
                2 => wire.sending(),
                3 => {
                    wire.begin();
                    wire.end();
                }
                _ => {}
            }
        }
        let closed = |from: usize| open.iter().skip(from).filter(|(_, _, stop)| stop.is_cancelled()).count();
        for expected in 1..=196 {
            assert!(register.close_longest_idle());
            assert_eq!(closed(4), expected, "in the order in which they came");
            assert!(open[3 + expected].2.is_cancelled());
        }
        assert!(register.close_longest_idle() && open[3].2.is_cancelled(), "the one used last goes last");
        assert!(!register.close_longest_idle());
        assert_eq!(closed(0), 197);
    }
}
