//! Simulated links that lose, delay, reorder and duplicate packets, from a seed.
//!
//! A [`Simulation`] is a virtual clock with a queue of events: [`Simulation::next`] takes the earliest and moves the
//! clock there, so hours pass in milliseconds. A [`Link`] decides what becomes of a packet: when it arrives, how often,
//! or not at all. All chance comes from one generator, so a seed replays a run exactly, on every machine.
//!
//! A simulated machine is driven like a real one: its datagrams go through a link into [`Simulation::schedule`], and
//! its `poll_timeout()` becomes an event as well.

mod impairment;
mod link;
mod simulation;

pub use impairment::Impairment;
pub use link::Link;
pub use simulation::Simulation;
