//! Waiting before the switch-over for a program of the operator, while the loop goes on.

use landfall_core::telemetry::sample::Status;
use tokio::sync::oneshot;

/// Where QEMU waits before the switch-over, with the guest stopped, for a program of the operator.
#[derive(Debug)]
pub struct SwitchOverGate {
    /// Sent to once QEMU waits.
    pub reached: oneshot::Sender<()>,
    /// The program's answer. A sender that is dropped means no.
    pub verdict: oneshot::Receiver<GateVerdict>,
}

/// What a program says that was asked before the switch-over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GateVerdict {
    /// The rest may be shipped.
    GoOn,
    /// The migration is to be cancelled; why.
    Refuse(String),
}

/// The gate as it stands.
#[derive(Debug, Default)]
pub(super) struct Gate {
    reached: Option<oneshot::Sender<()>>,
    verdict: Option<oneshot::Receiver<GateVerdict>>,
}

impl Gate {
    pub(super) fn new(gate: Option<SwitchOverGate>) -> Gate {
        match gate {
            Some(SwitchOverGate { reached, verdict }) => {
                Gate { reached: Some(reached), verdict: Some(verdict) }
            }
            None => Gate::default(),
        }
    }

    /// Whether the program has still to be asked.
    pub(super) fn is_ahead(&self) -> bool {
        self.reached.is_some()
    }

    /// Has the program asked once QEMU waits.
    pub(super) fn on_status(&mut self, status: Status) {
        if status == Status::PreSwitchOver
            && let Some(reached) = self.reached.take()
        {
            // Fails where the program's runner is gone, which is an answer as well.
            let _ = reached.send(());
        }
    }

    /// The program's answer; waits without end where none is to come.
    pub(super) async fn verdict(&mut self) -> GateVerdict {
        match &mut self.verdict {
            Some(verdict) if self.reached.is_none() => {
                let answer = verdict.await;
                self.verdict = None;
                answer.unwrap_or_else(|_| {
                    GateVerdict::Refuse(
                        "the program before the switch-over has not answered".into(),
                    )
                })
            }
            _ => std::future::pending().await,
        }
    }
}
