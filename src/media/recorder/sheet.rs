//! A file that is being written: WAV, or Opus in Ogg (RFC 7845). Layer: shell.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use ogg::{PacketWriteEndInfo, PacketWriter};
use ropus::{Application, Bitrate, Channels};

use crate::config::RecordingFormat;
use crate::media::core::recording::{Gap, wav};

/// The one stream in a file.
const SERIAL: u32 = 1;
/// RFC 7845 §4.2: what a decoder needs before it is right, at 48 kHz.
const PRE_SKIP: u16 = 312;
/// A frame is of 20 ms: so many milliseconds, and so many samples at 48 kHz.
const FRAME: usize = 20;
const GRANULES: u64 = 960;
/// A page is written at least so often, in frames.
const PAGE: u64 = 50;
/// The longest packet of Opus (RFC 6716 §3.4), and bits a second of both channels.
const PACKET: usize = 1276;
const BITRATE: u32 = 48_000;

/// The file.
pub(super) struct Sheet {
    /// Samples in a millisecond.
    rate: u8,
    frames: u64,
    kind: Kind,
}

enum Kind {
    Wav(BufWriter<File>),
    Ogg(Box<Ogg>),
}

struct Ogg {
    encoder: ropus::Encoder,
    writer: PacketWriter<'static, BufWriter<File>>,
    /// Samples of a frame that isn't whole yet.
    waiting: Vec<i16>,
    /// The last packet that is whole: it may be the last of all.
    last: Option<Vec<u8>>,
    /// Frames that are whole.
    count: u64,
}

impl Sheet {
    pub(super) fn new(path: &Path, format: RecordingFormat, rate: u8) -> io::Result<Self> {
        let mut file = BufWriter::new(File::options().read(true).write(true).create(true).truncate(true).open(path)?);
        let kind = match format {
            RecordingFormat::Wav => {
                file.write_all(&[0; wav::HEADER])?;
                Kind::Wav(file)
            }
            RecordingFormat::Ogg => Kind::Ogg(Box::new(Ogg::new(file, rate)?)),
        };
        Ok(Self { rate, frames: 0, kind })
    }

    /// Frames: a sample of each channel.
    pub(super) fn write(&mut self, sound: &[i16]) -> io::Result<()> {
        self.frames += sound.len() as u64 / 2;
        match &mut self.kind {
            Kind::Wav(file) => sound.iter().try_for_each(|sample| file.write_all(&sample.to_le_bytes())),
            Kind::Ogg(ogg) => {
                ogg.waiting.extend(sound);
                ogg.encode(2 * FRAME * usize::from(self.rate))
            }
        }
    }

    /// Gives the file, from its beginning, and how many frames there are in it.
    pub(super) fn end(self, gaps: &[Gap]) -> io::Result<(File, u64)> {
        let mut file = match self.kind {
            Kind::Wav(mut file) => {
                let rate = u32::from(self.rate) * 1000;
                let marks = wav::marks(gaps, rate);
                file.write_all(&marks)?;
                file.seek(SeekFrom::Start(0))?;
                file.write_all(&wav::header(rate, self.frames * 4, marks.len() as u64))?;
                file
            }
            Kind::Ogg(ogg) => ogg.end(self.rate, self.frames)?,
        };
        file.flush()?;
        let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        Ok((file, self.frames))
    }
}

impl Ogg {
    fn new(file: BufWriter<File>, rate: u8) -> io::Result<Self> {
        let encoder = ropus::Encoder::builder(u32::from(rate) * 1000, Channels::Stereo, Application::Audio)
            .bitrate(Bitrate::Bits(BITRATE))
            .build()
            .map_err(|error| io::Error::other(format!("{error:?}")))?;
        let mut head = b"OpusHead\x01\x02".to_vec();
        head.extend(PRE_SKIP.to_le_bytes());
        head.extend((u32::from(rate) * 1000).to_le_bytes());
        // No gain; both channels in one stream.
        head.extend([0; 3]);
        let mut tags = b"OpusTags".to_vec();
        tags.extend(6_u32.to_le_bytes());
        tags.extend(b"tandem");
        tags.extend(0_u32.to_le_bytes());
        let mut writer = PacketWriter::new(file);
        writer.write_packet(head, SERIAL, PacketWriteEndInfo::EndPage, 0)?;
        writer.write_packet(tags, SERIAL, PacketWriteEndInfo::EndPage, 0)?;
        Ok(Self { encoder, writer, waiting: Vec::new(), last: None, count: 0 })
    }

    /// What makes a frame of so many samples.
    fn encode(&mut self, frame: usize) -> io::Result<()> {
        let whole = self.waiting.len() / frame * frame;
        let samples: Vec<i16> = self.waiting.drain(..whole).collect();
        for samples in samples.chunks_exact(frame) {
            let mut packet = vec![0; PACKET];
            let length = self.encoder.encode(samples, &mut packet).map_err(|error| io::Error::other(format!("{error:?}")))?;
            packet.truncate(length);
            if let Some(before) = self.last.replace(packet) {
                let ends =
                    if self.count.is_multiple_of(PAGE) { PacketWriteEndInfo::EndPage } else { PacketWriteEndInfo::NormalPacket };
                self.writer.write_packet(before, SERIAL, ends, self.count * GRANULES)?;
            }
            self.count += 1;
        }
        Ok(())
    }

    fn end(mut self: Box<Self>, rate: u8, frames: u64) -> io::Result<BufWriter<File>> {
        let frame = 2 * FRAME * usize::from(rate);
        if !self.waiting.is_empty() {
            self.waiting.resize(self.waiting.len().next_multiple_of(frame), 0);
            self.encode(frame)?;
        }
        // Where the sound ends: what is more of the last frame isn't played (RFC 7845 §4.4).
        let end = frames * 48 / u64::from(rate) + u64::from(PRE_SKIP);
        if let Some(last) = self.last.take() {
            self.writer.write_packet(last, SERIAL, PacketWriteEndInfo::EndStream, end.min(self.count * GRANULES))?;
        }
        Ok(self.writer.into_inner())
    }
}
