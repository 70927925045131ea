//! Messages to systemd or another service manager that names its socket in `NOTIFY_SOCKET`; without it, none are sent.
//! The protocol is that of sd_notify(3).

use std::net::SocketAddr;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::interval;

/// Reports that requests are served at `address`.
pub(super) fn ready(address: SocketAddr) {
    send(&[NotifyState::Ready, NotifyState::Status(&format!("serving on {address}"))]);
}

/// Reports that the drain has begun.
pub(super) fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// Returns a task that notifies systemd's watchdog (`WatchdogSec=`), if it is on. It has to run beside the tasks that serve
/// requests, so that the watchdog fires when these are not carried out.
pub(super) fn watchdog() -> Option<impl Future<Output = ()> + Send + 'static> {
    let limit = sd_notify::watchdog_enabled()?;
    Some(async move {
        // Zero would panic.
        let mut ticks = interval((limit / 3).max(Duration::from_millis(1)));
        loop {
            ticks.tick().await;
            send(&[NotifyState::Watchdog]);
        }
    })
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager could not be notified");
    }
}
