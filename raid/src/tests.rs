//! Whole arrays over simulated devices.

mod assembly;
mod contract;
mod forms;
mod harness;
mod healing;
mod journaling;
mod logging;
mod members;
mod merging;
mod power;
mod replacing;
mod reshaping;
mod scrub;
mod slow;
