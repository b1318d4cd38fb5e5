//! What is done when its time has come.

use super::Tunnel;
use crate::timers::Due;
use crate::{Event, Now, Output};

impl Tunnel {
    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now, outputs: &mut Vec<Output>) {
        while let Some(id) = self.deadlines.pop(now.monotonic) {
            let Some(slot) = self.slot(id) else { continue };
            self.peers[slot].state.scheduled = None;
            while let Some(due) = self.peers[slot].state.timers.due(now.monotonic) {
                self.act(due, slot, now, outputs);
            }
            self.schedule(slot);
        }
    }

    fn act(&mut self, due: Due, slot: usize, now: Now, outputs: &mut Vec<Output>) {
        match due {
            Due::Retry => {
                // What was wrong may be the way that it took.
                self.peers[slot].state.forget_local_address();
                self.open_handshake(slot, now, outputs);
            }
            Due::GiveUp => self.give_up(slot, outputs),
            Due::Probe => {
                self.peers[slot].state.forget_local_address();
                self.want_handshake(slot, now, outputs);
            }
            Due::Keepalive => self.keep_alive(slot, now, outputs),
            Due::Forget => self.end_sessions(slot),
        }
    }

    fn give_up(&mut self, slot: usize, outputs: &mut Vec<Output>) {
        let peer = &mut self.peers[slot];
        peer.state.staged.clear();
        if let Some(pending) = peer.state.pending.take() {
            self.indices.remove(pending.index);
        }
        outputs.push(Output::Event(Event::HandshakeGivenUp(peer.id)));
    }
}
