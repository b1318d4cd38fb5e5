//! Who is connected to the console's socket.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::poll::PollFlags;

/// Who may be connected at once; more are turned away.
const MAX_CLIENTS: usize = 8;
/// What a new client is shown of the past.
const BACKLOG: usize = 64 << 10;
/// A client that does not read is let go when this much waits for it.
const MAX_UNREAD: usize = 256 << 10;
/// What was typed and waits for the guest. While it is full, no more is read from clients.
const MAX_TYPED: usize = 4096;

struct Client {
    stream: UnixStream,
    unread: VecDeque<u8>,
}

/// The clients, the latest output for new ones, and what they have typed.
pub(crate) struct Clients {
    listener: Option<UnixListener>,
    clients: Vec<Client>,
    backlog: VecDeque<u8>,
    typed: VecDeque<u8>,
}

impl Clients {
    /// Takes clients from `listener`, which must not block.
    pub(crate) fn new(listener: Option<UnixListener>) -> Self {
        Self {
            listener,
            clients: Vec::new(),
            backlog: VecDeque::new(),
            typed: VecDeque::new(),
        }
    }

    /// What to wait for: the listener if there is one, then each client.
    pub(crate) fn waits(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let listener = self
            .listener
            .iter()
            .map(|listener| (listener.as_fd(), PollFlags::POLLIN));
        let clients = self.clients.iter().map(|client| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, self.typed.len() < MAX_TYPED);
            flags.set(PollFlags::POLLOUT, !client.unread.is_empty());
            (client.stream.as_fd(), flags)
        });
        listener.chain(clients).collect()
    }

    /// Does whatever can be done without waiting: takes new clients, reads what they typed, writes what they are owed.
    pub(crate) fn serve(&mut self) {
        self.accept();
        let mut index = 0;
        while index < self.clients.len() {
            let room = MAX_TYPED.saturating_sub(self.typed.len());
            let client = &mut self.clients[index];
            let alive = client.read(&mut self.typed, room) && client.write();
            if alive {
                index += 1;
            } else {
                self.clients.swap_remove(index);
            }
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else {
            return;
        };
        while let Ok((stream, _)) = listener.accept() {
            if self.clients.len() < MAX_CLIENTS && stream.set_nonblocking(true).is_ok() {
                let unread = self.backlog.clone();
                self.clients.push(Client { stream, unread });
            }
        }
    }

    /// Shows output to all clients and keeps the latest of it.
    pub(crate) fn show(&mut self, bytes: &[u8]) {
        for client in &mut self.clients {
            client.unread.extend(bytes);
        }
        self.clients
            .retain(|client| client.unread.len() <= MAX_UNREAD);
        self.backlog.extend(bytes);
        let excess = self.backlog.len().saturating_sub(BACKLOG);
        self.backlog.drain(..excess);
    }

    /// Hands what was typed to `take`, which says how much it took.
    pub(crate) fn typed(&mut self, take: impl FnOnce(&[u8]) -> usize) {
        if !self.typed.is_empty() {
            let taken = take(self.typed.make_contiguous());
            self.typed.drain(..taken.min(self.typed.len()));
        }
    }
}

impl Client {
    fn read(&mut self, typed: &mut VecDeque<u8>, room: usize) -> bool {
        let mut buffer = [0; 512];
        let room = room.min(buffer.len());
        if room == 0 {
            return true;
        }
        match self.stream.read(&mut buffer[..room]) {
            Ok(0) => false,
            Ok(count) => {
                typed.extend(&buffer[..count]);
                true
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }

    fn write(&mut self) -> bool {
        while !self.unread.is_empty() {
            let (first, _) = self.unread.as_slices();
            match self.stream.write(first) {
                Ok(count) => drop(self.unread.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients() -> (tempfile::TempDir, Clients) {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("c")).unwrap();
        listener.set_nonblocking(true).unwrap();
        (folder, Clients::new(Some(listener)))
    }

    #[test]
    fn a_client_sees_the_past_and_the_present_and_types() {
        let (folder, mut clients) = clients();
        clients.show(b"past ");
        let mut stream = UnixStream::connect(folder.path().join("c")).unwrap();
        clients.serve();
        clients.show(b"present");
        stream.write_all(b"ls\n").unwrap();
        clients.serve();
        let mut seen = [0; 12];
        stream.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"past present");
        clients.typed(|bytes| {
            assert_eq!(bytes, b"ls\n");
            2
        });
        clients.typed(|bytes| {
            assert_eq!(bytes, b"\n");
            1
        });
        drop(stream);
        clients.serve();
        assert!(clients.clients.is_empty());
    }

    #[test]
    fn clients_and_what_waits_for_them_are_bounded() {
        let (folder, mut clients) = clients();
        let path = folder.path().join("c");
        let streams: Vec<_> = (0..12)
            .map(|_| UnixStream::connect(&path).unwrap())
            .collect();
        clients.serve();
        assert_eq!(clients.clients.len(), MAX_CLIENTS);
        clients.show(&vec![b'x'; MAX_UNREAD]);
        assert_eq!(clients.backlog.len(), BACKLOG);
        assert_eq!(clients.clients.len(), MAX_CLIENTS);
        clients.show(b"x");
        assert!(clients.clients.is_empty(), "who does not read is let go");
        drop(streams);
    }
}
