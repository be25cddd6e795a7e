//! How well the phones of a call were heard, and heard: as it is accounted. Layer: pure.

use serde::{Deserialize, Serialize};

/// What accounting gets of a leg's sound. Spans are in microseconds; what is absent was not to be learned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegQualityRecord {
    /// How its phone's sound was coded: the last that came.
    pub codec: String,
    /// Packets that have come from the phone.
    pub received: u32,
    /// Those that should have come, and have not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u32,
    /// Interarrival jitter: over the call, and the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<[u32; 2]>,
    /// From here to the phone and back: over the call, and the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trip: Option<[u32; 2]>,
    /// How what came from the phone sounded here (G.107), in hundredths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mos: Option<u16>,
    /// By the phone's reports: hundredths of a per cent that it has lost of what went to it, jitter, and MOS in hundredths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub far: Option<[u32; 3]>,
    /// What the phone itself has said of how that sounds (RFC 3611), in tenths.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub far_mos: u8,
    /// How often it was not heard at all while the other one spoke.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missed: u32,
    /// How often nothing but digital silence was heard of it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub silent: u32,
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}
