//! The codecs that are ours, and what sound needs between two of them. Layer: pure.

pub mod conceal;
pub mod g711;
pub mod g722;
pub mod halfband;
pub mod resample;
