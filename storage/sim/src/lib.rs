//! Simulated block devices that fail, lie, slow down and lose power, and the oracle that judges what survives.
