//! Records, written densely: most of one is names of fields, and what every SIP message says. Layer: pure.
//!
//! A dense record is a mark that begins no MessagePack, the number of a dictionary, and LZ4 (a block behind its length) by that
//! dictionary. Records of earlier releases are plain, and stay readable.

use std::borrow::Cow;

use bytes::Bytes;
use lz4_flex::block::{DecompressError, compress_prepend_size_with_dict, decompress_size_prepended_with_dict};

/// The one byte that MessagePack never uses.
const MARK: u8 = 0xc1;
/// An answered call and one that rings, of two phones, and the bindings of one of them. What was written by a dictionary needs it
/// for good: another one gets another number.
const DICTIONARY: &[u8] = include_bytes!("dictionary-1");
const NUMBER: u8 = 1;
/// No record comes near it; what says that it is longer is none.
const LONGEST: u32 = 1 << 24;

/// Why something is no dense record.
#[derive(Debug, thiserror::Error)]
pub enum DenseError {
    /// A later release wrote it.
    #[error("it needs dictionary {0}, this release has {NUMBER}")]
    Dictionary(u8),
    /// It says so itself.
    #[error("it says that it has {0} bytes")]
    Length(u32),
    /// It ends too early.
    #[error("it has no beginning")]
    Short,
    /// LZ4 doesn't understand it.
    #[error(transparent)]
    Block(#[from] DecompressError),
}

/// Writes a record that is kept for long.
pub fn pack(plain: &[u8]) -> Bytes {
    let block = compress_prepend_size_with_dict(plain, DICTIONARY);
    if block.len() + 2 >= plain.len() {
        return Bytes::copy_from_slice(plain);
    }
    // A slice takes what it needs; the block grew by doubling.
    Bytes::from([&[MARK, NUMBER], &block[..]].concat().into_boxed_slice())
}

/// Reads a record, dense or plain.
pub fn unpack(stored: &[u8]) -> Result<Cow<'_, [u8]>, DenseError> {
    let Some(dense) = stored.strip_prefix(&[MARK]) else { return Ok(Cow::Borrowed(stored)) };
    let (number, block) = dense.split_first().ok_or(DenseError::Short)?;
    if *number != NUMBER {
        return Err(DenseError::Dictionary(*number));
    }
    let length = block.first_chunk().map(|length| u32::from_le_bytes(*length)).ok_or(DenseError::Short)?;
    if length > LONGEST {
        return Err(DenseError::Length(length));
    }
    Ok(Cow::Owned(decompress_size_prepended_with_dict(block, DICTIONARY)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_it_knows_takes_little_and_what_it_does_not_takes_no_more() {
        assert!(pack(DICTIONARY).len() < 64);
        assert_eq!(pack(b"\x01"), Bytes::from_static(b"\x01"));
        let noise: Vec<u8> = (0..500u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        assert!(pack(&noise).len() <= noise.len());
    }

    #[test]
    fn what_is_none_is_refused_and_says_so() {
        let broken = |stored: &[u8]| unpack(stored).unwrap_err().to_string();
        assert_eq!(broken(&[MARK]), "it has no beginning");
        assert_eq!(broken(&[MARK, NUMBER, 1, 0]), "it has no beginning");
        assert_eq!(broken(&[MARK, 7, 1, 0, 0, 0]), "it needs dictionary 7, this release has 1");
        assert_eq!(broken(&[MARK, NUMBER, 255, 255, 255, 255]), "it says that it has 4294967295 bytes");
        assert!(unpack(&pack(DICTIONARY)[..20]).is_err());
    }

    proptest! {
        #[test]
        fn it_is_read_as_it_was_written(parts in prop::collection::vec((0..DICTIONARY.len(), 0..200usize, any::<[u8; 5]>()), 0..40)) {
            let mut plain = vec![0x82];
            for (from, length, noise) in parts {
                plain.extend(&DICTIONARY[from..(from + length).min(DICTIONARY.len())]);
                plain.extend(noise);
            }
            let packed = pack(&plain);
            prop_assert_eq!(&*unpack(&packed).unwrap(), &plain[..]);
        }

        #[test]
        fn nothing_that_is_stored_hurts(stored in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpack(&[&[MARK, NUMBER], &stored[..]].concat());
        }
    }
}
