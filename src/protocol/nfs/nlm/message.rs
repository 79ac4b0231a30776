//! Asynchronous calls (the `_MSG` and `_RES` procedures): the call itself is answered with nothing, at once, and what it asked for with a call
//! of our own to the client's lock manager.
//!
//! Invariants: at most [`MESSAGES_MAX`] are under way, and more are dropped, which their clients take for lost datagrams; the answer goes to the
//! address that the message came from, whatever it says, if that is one of an export's clients.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::protocol::nfs::Nfs;
use crate::protocol::nfs::caller::{self, Procedure};
use crate::protocol::nfs::rpc::Request;

use super::{PROGRAM, VERSION};

/// Messages under way.
const MESSAGES_MAX: usize = 256;
/// From TEST_MSG to TEST, and from it to TEST_RES; of LOCK, CANCEL and UNLOCK the same (Appendix II §5.2).
const TO_CALL: u32 = 5;
const TO_RESULT: u32 = 5;

/// See the module.
pub(in crate::protocol::nfs) struct Messages(Arc<Semaphore>);

impl Default for Messages {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MESSAGES_MAX)))
    }
}

/// Begins to carry out TEST_MSG, LOCK_MSG, CANCEL_MSG or UNLOCK_MSG.
pub(super) fn take(server: &Arc<Nfs>, message: &Request) {
    // Whoever may lock nothing here is not called either: a sender's address is easily made up.
    if !server.exports.all().iter().any(|export| export.rules.admits(message.peer)) {
        return;
    }
    let Ok(permit) = server.messages.0.clone().try_acquire_owned() else { return };
    let (client, result) = (message.peer.ip().to_canonical(), message.procedure + TO_RESULT);
    let asked = Request { procedure: message.procedure - TO_CALL, ..message.clone() };
    let work = server.clone();
    server.tasks.spawn(async move {
        if let Ok(reply) = super::ask(&work, &asked).await {
            let what = Procedure { program: PROGRAM, version: VERSION, procedure: result };
            let told = async {
                let to = caller::find(work.portmap_port(), client, PROGRAM, VERSION).await?;
                caller::call(to, what, reply.results()).await
            };
            if let Err(error) = told.await {
                tracing::debug!(%client, %error, "a client cannot be told what became of its lock");
            }
        }
        drop(permit);
    });
}
