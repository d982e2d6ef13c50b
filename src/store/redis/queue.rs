//! Calls that wait for a node, and the answers to them.

use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::batch::{Dispatch, SlotCharges};
use super::reply::Reply;
use super::wire::Command;
use crate::store::line::{Job, Queue, Rejection};
use crate::store::{Reading, StoreError};

/// Cost of a charge by script, in a batch with an upper bound on cost. A charge by command costs 1.
const SCRIPT_COST: usize = 4;
/// Bytes of keys that cost as much as one command.
const BYTES_PER_COST: usize = 256;

pub(super) type CallQueue = Queue<Call>;

/// The charges of one request that one node carries out.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) charges: SlotCharges,
    /// Slot of its counters in a Cluster, else 0.
    pub(super) slot: u16,
    pub(super) dispatch: Dispatch,
}

/// Charges of a request, returned to it with their outcomes.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) charges: SlotCharges,
    pub(super) outcomes: Outcomes,
}

/// One for each charge, in order.
pub(super) type Outcomes = SmallVec<[Result<Reading, StoreError>; 2]>;

/// Sender of the answer: a call that was not sent returns its charges.
pub(super) type AnswerSender = oneshot::Sender<Result<Answer, (SlotCharges, Rejection)>>;

/// A call that waits.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are charges, which take no allocation of their own"
)]
pub(super) enum Call {
    Charge { request: Request, deadline: Instant, answer: AnswerSender },
    Command(Box<CommandCall>),
}

/// A command other than a charge, such as lifting a lockout.
#[derive(Debug)]
pub(super) struct CommandCall {
    pub(super) command: Command,
    /// True if `ASKING` must precede it, since the slot of its key is being imported.
    pub(super) asking: bool,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Result<Reply, CommandError>>,
}

/// Why a command has no reply.
#[derive(Debug)]
pub(super) enum CommandError {
    NotSent(Rejection),
    Unanswered(std::sync::Arc<str>),
}

impl Job for Call {
    fn deadline(&self) -> Instant {
        match self {
            Self::Charge { deadline, .. } => *deadline,
            Self::Command(call) => call.deadline,
        }
    }

    fn set_deadline(&mut self, to: Instant) {
        match self {
            Self::Charge { deadline, .. } => *deadline = to,
            Self::Command(call) => call.deadline = to,
        }
    }

    fn cost(&self) -> usize {
        match self {
            Self::Charge { request, .. } => {
                let cost = |charge: &super::batch::SlotCharge| {
                    let commands = if charge.needs_script() { SCRIPT_COST } else { 1 };
                    commands + charge.key.len() / BYTES_PER_COST
                };
                request.charges.iter().map(cost).sum::<usize>().max(1)
            }
            Self::Command(_) => 1,
        }
    }

    fn is_abandoned(&self) -> bool {
        match self {
            Self::Charge { answer, .. } => answer.is_closed(),
            Self::Command(call) => call.reply.is_closed(),
        }
    }

    fn reject(self, rejection: &Rejection) {
        // The caller may have gone.
        match self {
            Self::Charge { request, answer, .. } => {
                drop(answer.send(Err((request.charges, rejection.clone()))));
            }
            Self::Command(call) => {
                drop(call.reply.send(Err(CommandError::NotSent(rejection.clone()))));
            }
        }
    }
}

/// Outcomes of `len` charges that all failed with `error`.
pub(super) fn failing(len: usize, error: &StoreError) -> Outcomes {
    (0..len).map(|_| Err(error.clone())).collect()
}
