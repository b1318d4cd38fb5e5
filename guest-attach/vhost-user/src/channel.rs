//! A connection: messages over a Unix socket, on the shard's own loop.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use vhost::vhost_user::message::MAX_ATTACHED_FD_ENTRIES;
use weft_uring::{readable, writable};

use crate::Error;
use crate::message::{HEADER, Header};

/// A message: its header, its payload and the descriptors that came with it.
pub(crate) type Message = (Header, Vec<u8>, Vec<OwnedFd>);

/// A stream socket to a front end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// Takes a connected socket.
    pub(crate) fn new(socket: OwnedFd) -> Result<Self, Error> {
        let failed = |error: Errno| Error::Connection(error.into());
        let flags = OFlag::from_bits_retain(fcntl(&socket, FcntlArg::F_GETFL).map_err(failed)?);
        fcntl(&socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map_err(failed)?;
        Ok(Self(socket))
    }

    /// The next message; none when the front end has gone.
    pub(crate) async fn receive(&self) -> Result<Option<Message>, Error> {
        let mut bytes = [0; HEADER];
        let mut files = Vec::new();
        if !self.fill(&mut bytes, &mut files).await? {
            return Ok(None);
        }
        let header = Header::parse(&bytes)?;
        let mut body = vec![0; header.size];
        if !self.fill(&mut body, &mut files).await? {
            return Err(Error::Protocol("a message ends in its middle"));
        }
        Ok(Some((header, body, files)))
    }

    /// Sends `bytes`, with a descriptor if there is one.
    pub(crate) async fn send(&self, bytes: &[u8], file: Option<RawFd>) -> Result<(), Error> {
        let mut rest = bytes;
        let mut file = file;
        while !rest.is_empty() {
            let files: Vec<RawFd> = file.into_iter().collect();
            let rights = [ControlMessage::ScmRights(&files)];
            let control = if files.is_empty() { &[] } else { &rights[..] };
            let sent = sendmsg::<UnixAddr>(
                self.0.as_raw_fd(),
                &[IoSlice::new(rest)],
                control,
                MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
                None,
            );
            match sent {
                Ok(sent) => {
                    rest = &rest[sent..];
                    file = None;
                }
                Err(Errno::EAGAIN) => writable(self.0.as_fd()).await.map_err(Error::Connection)?,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(Error::Connection(error.into())),
            }
        }
        Ok(())
    }

    /// Fills `into`; false if the peer has gone before its first byte.
    async fn fill(&self, into: &mut [u8], files: &mut Vec<OwnedFd>) -> Result<bool, Error> {
        let mut done = 0;
        while done < into.len() {
            match self.try_receive(&mut into[done..], files) {
                Ok(0) if done == 0 => return Ok(false),
                Ok(0) => return Err(Error::Protocol("a message ends in its middle")),
                Ok(received) => done += received,
                Err(Errno::EAGAIN) => readable(self.0.as_fd()).await.map_err(Error::Connection)?,
                Err(Errno::EINTR) => {}
                Err(Errno::ECONNRESET) if done == 0 => return Ok(false),
                Err(error) => return Err(Error::Connection(error.into())),
            }
            if files.len() > MAX_ATTACHED_FD_ENTRIES {
                return Err(Error::Protocol("a message has too many descriptors"));
            }
        }
        Ok(true)
    }

    fn try_receive(&self, into: &mut [u8], files: &mut Vec<OwnedFd>) -> Result<usize, Errno> {
        let mut space = cmsg_space!([RawFd; MAX_ATTACHED_FD_ENTRIES]);
        let mut slices = [IoSliceMut::new(into)];
        let received = recvmsg::<UnixAddr>(
            self.0.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = message {
                // SAFETY: the kernel has just made these descriptors for us, and nobody else knows them.
                files.extend(
                    raw.into_iter()
                        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                );
            }
        }
        Ok(received.bytes)
    }
}
