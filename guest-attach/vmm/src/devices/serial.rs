//! The 16550 serial port behind ttyS0.

use std::io;
use std::sync::{Arc, Mutex};

use vm_superio::serial::{NoEvents, Serial, SerialEvents};
use vm_superio::{Trigger, serial};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;
use crate::console::Screen;
use crate::sync::lock;

/// The port's interrupt, an eventfd that KVM turns into one.
pub(crate) struct Interrupt(pub(crate) EventFd);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Wakes the console when the guest has read all input, so that it gives more.
struct InputRead(Arc<Screen>);

impl SerialEvents for InputRead {
    fn buffer_read(&self) {
        NoEvents.buffer_read();
    }
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        self.0.wake();
    }
}

/// The port. Output goes to the console's screen, input comes by [`SerialPort::type_in`].
pub(crate) struct SerialPort(Serial<Interrupt, InputRead, ScreenWriter>);

struct ScreenWriter(Arc<Screen>);

impl io::Write for ScreenWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.print(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SerialPort {
    pub(crate) fn new(interrupt: Interrupt, screen: Arc<Screen>) -> Self {
        let writer = ScreenWriter(screen.clone());
        Self(Serial::with_events(interrupt, InputRead(screen), writer))
    }

    /// Gives as much of `input` to the guest as the port's buffer takes; how much that was comes back.
    pub(crate) fn type_in(&mut self, input: &[u8]) -> usize {
        let length = input.len().min(self.0.fifo_capacity());
        match self.0.enqueue_raw_bytes(&input[..length]) {
            Ok(count) => count,
            Err(serial::Error::FullFifo) => 0,
            // The interrupt could not be raised; the bytes are in the buffer all the same.
            Err(_) => length,
        }
    }
}

impl BusDevice for SerialPort {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let [byte] = data {
            *byte = self.0.read(offset as u8);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let [byte] = *data {
            // Fails only if the interrupt's eventfd is full, which means that it is raised already.
            let _ = self.0.write(offset as u8, byte);
        }
    }
}

/// The serial port that is there now; a reboot puts another in its place.
#[derive(Default)]
pub(crate) struct Keyboard(Mutex<Option<Arc<Mutex<SerialPort>>>>);

impl Keyboard {
    pub(crate) fn plug(&self, port: Option<Arc<Mutex<SerialPort>>>) {
        *lock(&self.0) = port;
    }

    /// As [`SerialPort::type_in`]; without a port all input is lost.
    pub(crate) fn type_in(&self, input: &[u8]) -> usize {
        let port = lock(&self.0).clone();
        port.map_or(input.len(), |port| lock(&port).type_in(input))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::Timeline;

    fn port() -> (SerialPort, Arc<Screen>, EventFd) {
        let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let screen = Arc::new(Screen::new(Arc::new(Timeline::new())).unwrap());
        let interrupt = Interrupt(event.try_clone().unwrap());
        (SerialPort::new(interrupt, screen.clone()), screen, event)
    }

    #[test]
    fn output_reaches_the_screen() {
        let (mut port, screen, _event) = port();
        for byte in b"hi" {
            port.write(0, &[*byte]);
        }
        assert_eq!(screen.take(), b"hi");
        port.write(0, &[1, 2, 3, 4]);
        assert_eq!(
            screen.take(),
            b"",
            "wide accesses are none of a serial port's"
        );
    }

    #[test]
    fn input_interrupts_and_is_read_in_order() {
        let (mut port, _screen, event) = port();
        port.write(1, &[1]);
        assert_eq!(port.type_in(b"ab"), 2);
        event.read().unwrap();
        let mut read = || {
            let mut byte = [0];
            port.read(0, &mut byte);
            byte[0]
        };
        assert_eq!((read(), read()), (b'a', b'b'));
        assert_eq!(port.type_in(&[b'x'; 100]), 64, "the buffer has a bound");
        assert_eq!(port.type_in(b"y"), 0);
    }
}
