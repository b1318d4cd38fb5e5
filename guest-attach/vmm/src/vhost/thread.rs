//! The thread of one device: it makes the back end do what the guest wishes.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::attachment::{Attachment, Wish};
use super::retry::Retry;
use super::session::{Inflight, Session};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::fd;
use crate::timeline::Timeline;
use crate::virtio::Activation;

/// Starts the device's thread. `prepare` runs in it first.
pub(crate) fn start(
    attachment: Arc<Attachment>,
    timeline: Arc<Timeline>,
    prepare: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<JoinHandle<Result<()>>> {
    let name = attachment.name.clone();
    Builder::new()
        .name(format!("dev-{name}"))
        .spawn(move || {
            prepare()?;
            Worker::new(attachment, timeline).work();
            Ok(())
        })
        .context(ErrorKind::Backend, format!("no thread for {name}"))
}

/// What the thread does next.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Connect, or wait until it is time to.
    Connect,
    /// Stop the rings that run.
    Stop,
    /// Start the rings that are wished.
    Start,
    /// Nothing: wait for something to happen.
    Wait,
    /// The VM ends.
    End,
}

/// The step that brings what is nearer to what is wished.
fn decide(wish: &Wish, ending: bool, connected: bool, running: Option<u64>) -> Step {
    match (&wish.activation, running) {
        (_, Some(number)) if number != wish.number => Step::Stop,
        (None, _) if ending => Step::End,
        _ if !connected => Step::Connect,
        (Some(_), None) => Step::Start,
        _ => Step::Wait,
    }
}

/// Rings that a back end was given, and by which wish.
struct Running {
    number: u64,
    activation: Arc<Activation>,
    /// The connection on which they run; none after it broke.
    live: bool,
}

struct Worker {
    attachment: Arc<Attachment>,
    timeline: Arc<Timeline>,
    session: Option<Session>,
    running: Option<Running>,
    inflight: Option<Inflight>,
    retry: Retry,
}

impl Worker {
    fn new(attachment: Arc<Attachment>, timeline: Arc<Timeline>) -> Self {
        Self {
            attachment,
            timeline,
            session: None,
            running: None,
            inflight: None,
            retry: Retry::new(Instant::now()),
        }
    }

    fn work(&mut self) {
        loop {
            let (wish, ending) = self.attachment.wished();
            let running = self.running.as_ref().map(|running| running.number);
            if running.is_none() && wish.activation.is_none() {
                self.attachment.did(wish.number);
            }
            let step = match decide(&wish, ending, self.session.is_some(), running) {
                // A broken connection's rings start again on the next one.
                Step::Wait if self.running.as_ref().is_some_and(|running| !running.live) => {
                    Step::Start
                }
                step => step,
            };
            let result = match step {
                Step::End => return,
                Step::Connect => self.connect(),
                Step::Stop => self.stop(),
                Step::Start => self.start(&wish),
                Step::Wait => self.pass_on_writes().and_then(|()| self.wait()),
            };
            if let Err(error) = result {
                self.disconnect(&error);
            }
        }
    }

    fn disconnect(&mut self, error: &Error) {
        if self.session.take().is_some() {
            tracing::warn!(
                device = self.attachment.name,
                "back end lost: {}",
                error.sentence()
            );
        }
        if let Some(running) = &mut self.running {
            running.live = false;
        }
        self.attachment.disconnected(error);
        self.retry.failed(Instant::now());
    }

    fn connect(&mut self) -> Result<()> {
        let wait = self.retry.remaining(Instant::now());
        if !wait.is_zero() {
            return self.sleep(wait);
        }
        let attachment = &self.attachment;
        let mut session = Session::open(
            &attachment.socket,
            attachment.kind,
            attachment.wanted_queues,
        )?;
        let config = session.read_config()?;
        attachment.connected(&session, config);
        self.session = Some(session);
        Ok(())
    }

    fn start(&mut self, wish: &Wish) -> Result<()> {
        let (Some(session), Some(activation)) = (&mut self.session, &wish.activation) else {
            return Ok(());
        };
        let resume = self.running.is_some();
        session.start(activation, &mut self.inflight, resume)?;
        self.running = Some(Running {
            number: wish.number,
            activation: activation.clone(),
            live: true,
        });
        self.retry = Retry::new(Instant::now());
        if !resume {
            let Attachment { kind, name, .. } = &*self.attachment;
            self.timeline.mark(format!("{} {name} in use", kind.name()));
        }
        self.attachment.did(wish.number);
        Ok(())
    }

    /// Stops the rings. Those of a broken connection have stopped already.
    fn stop(&mut self) -> Result<()> {
        self.inflight = None;
        match (self.running.take(), &mut self.session) {
            (Some(running), Some(session)) if running.live => session.stop(&running.activation),
            _ => Ok(()),
        }
    }

    fn pass_on_writes(&mut self) -> Result<()> {
        while let (Some(session), Some((offset, bytes))) =
            (&mut self.session, self.attachment.take_write())
        {
            session.write_config(offset, &bytes)?;
        }
        Ok(())
    }

    /// Waits for a new wish, for a request of the back end, or for the connection's end.
    fn wait(&mut self) -> Result<()> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let (socket, requests) = session.sockets();
        let mut waits = vec![
            PollFd::new(fd::borrow(self.attachment.event()), PollFlags::POLLIN),
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
        ];
        waits.extend(requests.map(|requests| PollFd::new(requests, PollFlags::POLLIN)));
        poll_all(&mut waits, PollTimeout::NONE)?;
        let happened = |at: usize| waits.get(at).and_then(PollFd::any).unwrap_or(false);
        let (woken, ended, requested) = (happened(0), happened(1), happened(2));
        if woken {
            let _ = self.attachment.event().read();
        }
        if ended {
            return Err(Error::new(
                ErrorKind::Backend,
                "the back end closed the connection",
            ));
        }
        if requested && session.take_request()? {
            let config = session.read_config()?;
            self.attachment.configured(config);
        }
        Ok(())
    }

    /// Waits for a new wish, at most so long.
    fn sleep(&self, limit: Duration) -> Result<()> {
        // Rounded up: a wait of zero would only spin.
        let timeout =
            PollTimeout::try_from(limit + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        let mut waits = [PollFd::new(
            fd::borrow(self.attachment.event()),
            PollFlags::POLLIN,
        )];
        if poll_all(&mut waits, timeout)? > 0 {
            let _ = self.attachment.event().read();
        }
        Ok(())
    }
}

fn poll_all(waits: &mut [PollFd<'_>], timeout: PollTimeout) -> Result<i32> {
    match poll(waits, timeout) {
        Err(nix::errno::Errno::EINTR) => Ok(0),
        other => other.context(ErrorKind::Backend, "cannot wait for the back end"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(number: u64, started: bool) -> Wish {
        let ram = crate::memory::allocate(64 << 20).unwrap();
        let activation = Activation {
            ram,
            features: 0,
            queues: Vec::new(),
        };
        Wish {
            number,
            activation: started.then(|| Arc::new(activation)),
        }
    }

    #[test]
    fn each_step_leads_to_the_wish() {
        let (idle, started) = (wish(0, false), wish(1, true));
        assert_eq!(decide(&idle, false, false, None), Step::Connect);
        assert_eq!(decide(&idle, false, true, None), Step::Wait);
        assert_eq!(decide(&started, false, false, None), Step::Connect);
        assert_eq!(decide(&started, false, true, None), Step::Start);
        assert_eq!(decide(&started, false, true, Some(1)), Step::Wait);
        assert_eq!(decide(&started, false, false, Some(1)), Step::Connect);
        let stopped = wish(2, false);
        assert_eq!(decide(&stopped, false, true, Some(1)), Step::Stop);
        assert_eq!(decide(&stopped, true, false, Some(1)), Step::Stop);
        assert_eq!(decide(&stopped, true, false, None), Step::End);
        assert_eq!(decide(&wish(3, true), false, true, Some(1)), Step::Stop);
    }
}
