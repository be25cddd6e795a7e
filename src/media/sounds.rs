//! The recordings that a node plays, read from WAV files when it starts. Layer: shell.
//!
//! They are coded on a thread beside, which takes Opus some seconds for minutes of music: until then nobody hears any.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use hound::{SampleFormat, WavReader};

use super::core::codec::resample::resample;
use super::core::player::Tune;
use super::core::sound::Quality;
use super::core::sound::melody::{Melody, RATE};

/// A recording is so long at most: each second of it takes 60 KB.
const MOST_SECONDS: u32 = 600;
/// And has so many samples in a second.
const RATES: std::ops::RangeInclusive<u32> = 8000..=48_000;

/// Why a recording can't be played.
#[derive(Debug, thiserror::Error)]
pub enum SoundError {
    /// It isn't there, or it is no WAV file of PCM, or one that is cut off.
    #[error("cannot read {} as a WAV file", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: hound::Error,
    },
    /// It is one that isn't played.
    #[error("cannot play {}: it {what}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is the matter with it.
        what: String,
    },
    /// No thread could be started.
    #[error("cannot code what is played")]
    Thread(#[source] std::io::Error),
}

/// What a node plays.
#[derive(Debug, Clone, Default)]
pub struct Sounds {
    hold_music: Option<Arc<OnceLock<Melody>>>,
    ringback: Option<Arc<OnceLock<Melody>>>,
}

impl Sounds {
    /// Reads the files, and begins to code them by `quality`.
    pub fn load(hold_music: Option<&Path>, ringback: Option<&Path>, quality: Quality) -> Result<Self, SoundError> {
        let load = |path: Option<&Path>| path.map(|path| prepare(path, quality)).transpose();
        Ok(Self { hold_music: load(hold_music)?, ringback: load(ringback)? })
    }

    /// One of them, once it is coded.
    pub fn of(&self, tune: Tune) -> Option<&Melody> {
        let melody = match tune {
            Tune::HoldMusic => &self.hold_music,
            Tune::Ringback => &self.ringback,
        };
        melody.as_ref()?.get()
    }
}

fn prepare(path: &Path, quality: Quality) -> Result<Arc<OnceLock<Melody>>, SoundError> {
    let (samples, rate) = read(path)?;
    let (melody, name) = (Arc::<OnceLock<Melody>>::default(), path.to_owned());
    let coded = melody.clone();
    let code = move || match Melody::new(&resample(&samples, rate, RATE), quality) {
        Some(made) => drop(coded.set(made)),
        None => tracing::error!(file = %name.display(), "it can't be coded, and nobody hears it"),
    };
    std::thread::Builder::new().name("sounds".into()).spawn(code).map_err(SoundError::Thread)?;
    Ok(melody)
}

/// Reads a file: its samples, what is in both channels as one, and how many there are in a second.
fn read(path: &Path) -> Result<(Vec<i16>, u32), SoundError> {
    let error = |source| SoundError::Read { path: path.to_owned(), source };
    let unusable = |what: String| SoundError::Unusable { path: path.to_owned(), what };
    let file = File::open(path).map_err(|source| error(source.into()))?;
    let wav = WavReader::new(BufReader::new(file)).map_err(error)?;
    let spec = wav.spec();
    if spec.sample_format != SampleFormat::Int || !(8..=32).contains(&spec.bits_per_sample) {
        return Err(unusable("is not PCM of 8 to 32 bits".into()));
    }
    if !(1..=2).contains(&spec.channels) {
        return Err(unusable(format!("has {} channels, and may have one or two", spec.channels)));
    }
    if !RATES.contains(&spec.sample_rate) {
        return Err(unusable(format!("has {} samples a second, and may have 8000 to 48000", spec.sample_rate)));
    }
    let frames = wav.duration();
    if frames < spec.sample_rate / 50 || frames > MOST_SECONDS * spec.sample_rate {
        return Err(unusable(format!("is not between 20 ms and {MOST_SECONDS} s long")));
    }
    let (channels, bits) = (usize::from(spec.channels), u32::from(spec.bits_per_sample));
    let samples = wav.into_samples::<i32>().collect::<Result<Vec<_>, _>>().map_err(error)?;
    let mixed = samples.chunks_exact(channels).map(|frame| {
        let sum: i64 = frame.iter().map(|sample| i64::from(*sample)).sum();
        let mean = (sum << (32 - bits)) / i64::from(spec.channels);
        i16::try_from(mean >> 16).unwrap_or_default()
    });
    Ok((mixed.collect(), spec.sample_rate))
}

#[cfg(test)]
mod tests {
    use hound::{WavSpec, WavWriter};

    use super::*;

    fn written(spec: WavSpec, samples: &[i32]) -> tempfile::TempPath {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let mut writer = WavWriter::create(&path, spec).unwrap();
        samples.iter().for_each(|sample| writer.write_sample(*sample).unwrap());
        writer.finalize().unwrap();
        path
    }

    const SPEC: WavSpec = WavSpec { channels: 1, sample_rate: 8000, bits_per_sample: 16, sample_format: SampleFormat::Int };

    #[test]
    fn files_of_one_channel_or_two_and_of_any_width_are_read() {
        let all: Vec<i32> = (0..160).map(|at| at * 100).collect();
        assert_eq!(read(&written(SPEC, &all)).unwrap().0[..4], [0, 100, 200, 300]);
        let stereo = WavSpec { channels: 2, sample_rate: 48_000, ..SPEC };
        let (samples, rate) = read(&written(stereo, &(0..1920).collect::<Vec<_>>())).unwrap();
        assert_eq!((samples.len(), rate, &samples[..3]), (960, 48_000, &[0, 2, 4][..]));
        let wide = WavSpec { bits_per_sample: 24, ..SPEC };
        assert_eq!(read(&written(wide, &[-256_000; 160])).unwrap().0[0], -1000);
        let narrow = WavSpec { bits_per_sample: 8, ..SPEC };
        assert_eq!(read(&written(narrow, &[-128; 160])).unwrap().0[0], i16::MIN);
    }

    #[test]
    fn what_cannot_be_played_is_said_in_one_sentence() {
        let said = |path: &Path| read(path).unwrap_err().to_string();
        assert!(said(Path::new("/nowhere.wav")).ends_with("cannot read /nowhere.wav as a WAV file"));
        let text = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(text.path(), "no sound").unwrap();
        assert!(said(text.path()).ends_with("as a WAV file"));
        assert!(said(&written(SPEC, &[0; 159])).ends_with("it is not between 20 ms and 600 s long"));
        let slow = WavSpec { sample_rate: 4000, ..SPEC };
        assert!(said(&written(slow, &[0; 999])).ends_with("has 4000 samples a second, and may have 8000 to 48000"));
        let three = WavSpec { channels: 3, ..SPEC };
        assert!(said(&written(three, &[0; 999])).ends_with("has 3 channels, and may have one or two"));
        let float = WavSpec { bits_per_sample: 32, sample_format: SampleFormat::Float, ..SPEC };
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let mut writer = WavWriter::create(&path, float).unwrap();
        (0..999).for_each(|_| writer.write_sample(0.5_f32).unwrap());
        writer.finalize().unwrap();
        assert!(said(&path).ends_with("is not PCM of 8 to 32 bits"));
    }

    /// What the header promises isn't there.
    #[test]
    fn a_file_that_is_cut_off_is_no_file() {
        let path = written(SPEC, &[5; 999]);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..500]).unwrap();
        assert!(read(&path).is_err());
    }
}
