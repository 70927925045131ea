//! The process's limit of open files, and the part of it that is available to connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Raises the soft limit to the hard limit, and returns the resulting limit; `None` if there is none.
pub fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files could not be raised");
            limit.current
        }
    }
}

/// Returns the limit that the proxy would have if it started in this environment.
#[must_use]
pub fn attainable() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// Reduces the limits of connections to fit a limit of open files. Returns a message for the operator if they had to
/// be reduced.
///
/// A connection needs two descriptors: its own, and one to MLflow while its request is answered. The listener for
/// probes, idle connections to MLflow, the store and everything else use the rest.
pub fn fit(config: &mut Config, limit: Option<u64>) -> Option<String> {
    let limit = limit?;
    // One HTTP/2 connection can have as many requests under way as its user may have.
    let upstream = config.upstream.pool_max_idle.max(config.upstream.max_requests_per_user);
    let upstream = u64::try_from(upstream).unwrap_or(u64::MAX);
    let reserve = RESERVE.saturating_add(upstream).min(limit / 2);
    let room = usize::try_from((limit - reserve) / 2).unwrap_or(usize::MAX).max(1);
    let server = &mut config.server;
    if server.max_connections <= room {
        return None;
    }
    let needed = RESERVE.saturating_add(upstream).saturating_add(server.max_connections as u64 * 2);
    let wanted = std::mem::replace(&mut server.max_connections, room);
    // One address must not be able to take all connections with non-idle ones.
    server.max_connections_per_address = server.max_connections_per_address.min((room / 2).max(1));
    Some(format!(
        "server.max_connections: {wanted} connections need a limit of {needed} open files, and this process has {limit}: \
         {room} connections are accepted, {} of one address. Raise the hard limit (`ulimit -Hn`, `LimitNOFILE=`) or lower \
         server.max_connections",
        server.max_connections_per_address
    ))
}

/// Reserved descriptors: 64 for probes, the rest for the store, log files, listeners and identity providers.
const RESERVE: u64 = 192;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::defaults;

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        for limit in [0, 1, 16, 256, 1024, 4096, 8000] {
            let mut config = defaults().unwrap();
            assert!(fit(&mut config, Some(limit)).is_some(), "{limit}");
            let server = &config.server;
            assert!(server.max_connections >= 1 && server.max_connections_per_address >= 1);
            let left = limit.saturating_sub(server.max_connections as u64 * 2);
            assert!(limit < 16 || left >= (limit / 2).min(448), "{limit}: {left}");
            assert!(limit < 16 || server.max_connections_per_address <= server.max_connections / 2);
        }
    }

    #[test]
    fn a_limit_with_room_changes_nothing() {
        for limit in [None, Some(8640), Some(524_288), Some(u64::MAX)] {
            let mut config = defaults().unwrap();
            assert_eq!(fit(&mut config, limit), None);
            assert_eq!((config.server.max_connections, config.server.max_connections_per_address), (4096, 1024));
        }
    }
}
