//! `[recording]`. Layer: ground.

use serde::{Deserialize, Serialize};

use super::Secret;

/// `[recording]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "config/tandem.toml says what each key is")]
pub struct Recording {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    pub calls: RecordedCalls,
    pub format: RecordingFormat,
    pub keep_days: u32,
    pub s3: S3,
}

/// `[recording.s3]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "config/tandem.toml says what each key is")]
pub struct S3 {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Secret>,
}

/// Which calls are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordedCalls {
    /// Those of users that say so, and those that somebody asks for.
    #[default]
    Asked,
    /// All, but for those whose users all say no.
    All,
}

/// What a recording is in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordingFormat {
    /// 16 bits a sample, 8 or 16 kHz, as its codecs have it.
    #[default]
    Wav,
    /// Opus in Ogg (RFC 7845).
    Ogg,
}
