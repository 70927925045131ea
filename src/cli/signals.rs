//! The signals that ask the proxy to stop.

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listener for signals. It listens from its creation on, so that no signal is missed between two waits.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

/// A request to stop.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stop {
    Terminate,
    Interrupt,
    Hangup,
}

impl Signals {
    /// Listens for SIGTERM and SIGINT. From now on, SIGHUP no longer ends the process: it reloads files, of which
    /// there may be none.
    pub(super) fn listen() -> std::io::Result<Self> {
        let _ = signal(SignalKind::hangup())?;
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, hangup: None })
    }

    /// Listens for these signals and for SIGHUP from a terminal that is closed.
    pub(super) fn listen_also_to_the_terminal() -> std::io::Result<Self> {
        Ok(Self { hangup: Some(signal(SignalKind::hangup())?), ..Self::listen()? })
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) -> Stop {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => Stop::Terminate,
            _ = self.interrupt.recv() => Stop::Interrupt,
            _ = hangup => Stop::Hangup,
        }
    }
}

impl Stop {
    /// Returns the exit code by which shells report a process that ended by this signal.
    pub(super) fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Hangup => 129,
            Self::Interrupt => 130,
            Self::Terminate => 143,
        })
    }
}
