//! The signals that ask us to stop.

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens from its making, so no signal is missed between two waits.
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
    /// SIGTERM and SIGINT. SIGHUP ends nothing from now on: it makes files be looked at, which may be none.
    pub(super) fn listen() -> std::io::Result<Self> {
        let _ = signal(SignalKind::hangup())?;
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, hangup: None })
    }

    /// These, and a terminal that is closed.
    pub(super) fn listen_also_to_the_terminal() -> std::io::Result<Self> {
        Ok(Self { hangup: Some(signal(SignalKind::hangup())?), ..Self::listen()? })
    }

    /// The next one.
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
    /// What a shell shows for a process that ended by this signal.
    pub(super) fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Hangup => 129,
            Self::Interrupt => 130,
            Self::Terminate => 143,
        })
    }
}
