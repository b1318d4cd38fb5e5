//! The fixed hardware of ACPI: PM1 event and control registers, and the keyboard controller's reset line.
//!
//! ACPI specification 6.5, section 4.8.3. There is one event, the power button; it raises the SCI, a level-triggered
//! interrupt, as long as it is both set and enabled.

use std::sync::Arc;

use vm_superio::{I8042Device, Trigger};

use crate::bus::BusDevice;
use crate::sync::{Stop, StopCell};

/// What the guest writes into the reset register (the "hard reset" of a PC's port 0xcf9).
pub(crate) const RESET_VALUE: u8 = 6;
/// The bit of it that resets.
pub(crate) const RESET_BIT: u8 = 4;
/// The sleep type that switches the machine off.
pub(crate) const SLEEP_TYPE_S5: u8 = 5;

const POWER_BUTTON: u16 = 1 << 8;
const SCI_ENABLE: u16 = 1;
const SLEEP_TYPE_SHIFT: u16 = 10;
const SLEEP_ENABLE: u16 = 1 << 13;

/// A level-triggered interrupt line.
pub(crate) trait Line: Send + Sync {
    /// Sets the line's level.
    fn set(&self, high: bool);
}

/// The PM1 registers: status at 0, enable at 2, control at 4.
pub(crate) struct Pm1 {
    status: u16,
    enable: u16,
    control: u16,
    line: Arc<dyn Line>,
    stop: Arc<StopCell>,
}

impl Pm1 {
    pub(crate) fn new(line: Arc<dyn Line>, stop: Arc<StopCell>) -> Self {
        Self {
            status: 0,
            enable: 0,
            control: SCI_ENABLE,
            line,
            stop,
        }
    }

    /// Asks the guest to shut down.
    pub(crate) fn press_power_button(&mut self) {
        self.status |= POWER_BUTTON;
        self.update_line();
    }

    fn update_line(&self) {
        self.line.set(self.status & self.enable != 0);
    }

    fn bytes(&self) -> [u8; 8] {
        let mut bytes = [0; 8];
        for (at, register) in [self.status, self.enable, self.control]
            .into_iter()
            .enumerate()
        {
            bytes[at * 2..at * 2 + 2].copy_from_slice(&register.to_le_bytes());
        }
        bytes
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        let shift = 8 * (offset & 1);
        let bits = u16::from(value) << shift;
        let kept = !(0xff_u16 << shift);
        match offset / 2 {
            0 => self.status &= !bits,
            1 => self.enable = self.enable & kept | bits,
            2 => self.control = self.control & kept | bits,
            _ => {}
        }
    }
}

impl BusDevice for Pm1 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let bytes = self.bytes();
        for (at, byte) in data.iter_mut().enumerate() {
            *byte = bytes.get(offset as usize + at).copied().unwrap_or(0);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (at, byte) in data.iter().enumerate() {
            self.write_byte(offset + at as u64, *byte);
        }
        self.update_line();
        if self.control & SLEEP_ENABLE != 0 {
            let kind = self.control >> SLEEP_TYPE_SHIFT & 7;
            if kind == u16::from(SLEEP_TYPE_S5) {
                self.stop.set(Stop::PoweredOff);
            }
        }
        // Sleep enable reads as zero; SCI enable is fixed, as there is no other mode.
        self.control = self.control & !SLEEP_ENABLE | SCI_ENABLE;
    }
}

/// The keyboard controller, of which only the line that resets the CPU is there.
pub(crate) struct KeyboardController(I8042Device<ResetLine>);

struct ResetLine(Arc<StopCell>);

impl Trigger for ResetLine {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.set(Stop::Reset);
        Ok(())
    }
}

impl KeyboardController {
    pub(crate) fn new(stop: Arc<StopCell>) -> Self {
        Self(I8042Device::new(ResetLine(stop)))
    }
}

impl BusDevice for KeyboardController {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(self.0.read(offset as u8));
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let [value] = *data {
            let Ok(()) = self.0.write(offset as u8, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Default)]
    struct Wire(AtomicBool);

    impl Line for Wire {
        fn set(&self, high: bool) {
            self.0.store(high, Ordering::SeqCst);
        }
    }

    fn pm1() -> (Pm1, Arc<Wire>, Arc<StopCell>) {
        let (wire, stop) = (Arc::new(Wire::default()), Arc::new(StopCell::default()));
        (Pm1::new(wire.clone(), stop.clone()), wire, stop)
    }

    #[test]
    fn the_button_raises_the_line_while_it_is_enabled() {
        let (mut pm1, wire, _stop) = pm1();
        let high = || wire.0.load(Ordering::SeqCst);
        pm1.press_power_button();
        assert!(!high());
        pm1.write(2, &0x0100_u16.to_le_bytes());
        assert!(high());
        let mut status = [0; 2];
        pm1.read(0, &mut status);
        assert_eq!(status, [0, 1]);
        pm1.write(1, &[1]);
        assert!(!high(), "cleared by a byte access too");
    }

    #[test]
    fn sleep_type_5_switches_off_and_others_do_nothing() {
        let (mut pm1, _wire, stop) = pm1();
        pm1.write(4, &(3_u16 << 10 | 1 << 13).to_le_bytes());
        assert!(stop.take().is_none());
        pm1.write(4, &(5_u16 << 10).to_le_bytes());
        assert!(stop.take().is_none());
        pm1.write(4, &(5_u16 << 10 | 1 << 13).to_le_bytes());
        assert!(matches!(stop.take(), Some(Stop::PoweredOff)));
        let mut control = [0; 2];
        pm1.read(4, &mut control);
        assert_eq!(control[0] & 1, 1, "ACPI mode stays on");
    }

    #[test]
    fn the_keyboard_controller_resets() {
        let stop = Arc::new(StopCell::default());
        let mut keyboard = KeyboardController::new(stop.clone());
        keyboard.write(4, &[0xd1]);
        assert!(stop.take().is_none());
        keyboard.write(4, &[0xfe]);
        assert!(matches!(stop.take(), Some(Stop::Reset)));
    }
}
