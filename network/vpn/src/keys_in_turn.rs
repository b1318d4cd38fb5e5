//! The sessions with one peer: the previous, the current and the next (whitepaper, 6.2).

use std::sync::Arc;

use crate::Session;

/// At most three sessions. Packets go out with the current one; all of them may come in.
#[derive(Debug, Default)]
pub(crate) struct KeysInTurn {
    /// Still opens what was under way when the current one took over.
    previous: Option<Arc<Session>>,
    current: Option<Arc<Session>>,
    /// We have answered a handshake, and do not know yet that the peer has heard the answer.
    next: Option<Arc<Session>>,
}

impl KeysInTurn {
    /// The session to send with, if there is one.
    pub(crate) fn current(&self) -> Option<&Arc<Session>> {
        self.current.as_ref()
    }

    /// Takes a session that both sides know of: we have opened the handshake, and it was answered. Returns the
    /// sessions that it puts out.
    pub(crate) fn confirmed(&mut self, session: Arc<Session>) -> Vec<Arc<Session>> {
        let current = self.current.replace(session);
        let mut out = Vec::new();
        // What the peer has opened meanwhile may already be in its use.
        let previous = match self.next.take() {
            Some(next) => {
                out.extend(current);
                Some(next)
            }
            None => current,
        };
        out.extend(std::mem::replace(&mut self.previous, previous));
        out
    }

    /// Takes a session of which only the peer's first message will tell that it knows it. Returns the sessions that it
    /// puts out.
    pub(crate) fn answered(&mut self, session: Arc<Session>) -> Vec<Arc<Session>> {
        let next = self.next.replace(session);
        next.into_iter().chain(self.previous.take()).collect()
    }

    /// Notes that something genuine came in with the session of this index. If it was the next one, it is now the
    /// current one; returns whether it was, and the session that it puts out.
    pub(crate) fn heard(&mut self, local_index: u32) -> (bool, Option<Arc<Session>>) {
        let is_next = |next: &mut Arc<Session>| next.local_index() == local_index;
        let Some(next) = self.next.take_if(is_next) else {
            return (false, None);
        };
        let current = self.current.replace(next);
        (true, std::mem::replace(&mut self.previous, current))
    }

    /// Takes all away.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Arc<Session>> {
        let all = [self.previous.take(), self.current.take(), self.next.take()];
        all.into_iter().flatten()
    }
}
