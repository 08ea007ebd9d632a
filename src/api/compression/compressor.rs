//! Compressors that say all of what they were given at each write, with little memory.
//!
//! There may be as many as there are clients, so their windows are small: a stream's events are
//! like those just before them. What each takes is measured (`docs/transports.md`):
//!
//! - gzip keeps the last [`WINDOW`] bytes as they are, and nothing else. One deflater for each thread
//!   is given them as its dictionary at each write.
//! - zstd has no such dictionary within a frame, so its context stays; its tables are made small.
//! - brotli's tables cannot be made small.

use std::cell::RefCell;
use std::io::{self, Write};

use brotli::CompressorWriter;
use bytes::Bytes;
use flate2::{Compress, Crc, FlushCompress};
use zstd::stream::raw::{CParameter, Encoder, InBuffer, Operation, OutBuffer};

use crate::config::Compression;

/// How far back gzip looks, in bytes.
const WINDOW: usize = 4 * 1024;
/// Faster than 6, and hardly worse.
const GZIP_LEVEL: u32 = 3;
/// No name, no time, an unknown system.
const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

const ZSTD_LEVEL: i32 = 1;
/// As powers of two.
const ZSTD_WINDOW: u32 = 12;
const ZSTD_TABLE: u32 = 10;

/// 0 and 1 do not look back beyond a write, and 4 takes several times as much memory.
const BROTLI_QUALITY: u32 = 2;
const BROTLI_WINDOW: u32 = 12;
/// So much goes into brotli at a time: it keeps room for the largest of them.
const BROTLI_PIECE: usize = 4 * 1024;

/// One stream's.
pub enum Compressor {
    Zstd(Encoder<'static>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Gzip(Gzip),
}

impl Compressor {
    /// # Errors
    /// There is no memory for it.
    pub fn new(compression: Compression) -> io::Result<Compressor> {
        Ok(match compression {
            Compression::Zstd => {
                let mut encoder = Encoder::new(ZSTD_LEVEL)?;
                for parameter in [
                    CParameter::WindowLog(ZSTD_WINDOW),
                    CParameter::HashLog(ZSTD_TABLE),
                    CParameter::ChainLog(ZSTD_TABLE),
                ] {
                    encoder.set_parameter(parameter)?;
                }
                Compressor::Zstd(encoder)
            }
            Compression::Brotli => Compressor::Brotli(Box::new(CompressorWriter::new(
                Vec::new(),
                BROTLI_PIECE,
                BROTLI_QUALITY,
                BROTLI_WINDOW,
            ))),
            Compression::Gzip => Compressor::Gzip(Gzip::default()),
        })
    }

    /// What a client has to be sent to decode all of this.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn compress(&mut self, pieces: &[Bytes]) -> io::Result<Bytes> {
        let mut out = Vec::new();
        match self {
            Compressor::Zstd(encoder) => {
                for piece in pieces {
                    let mut input = InBuffer::around(piece);
                    while input.pos() < piece.len() {
                        zstd_step(&mut out, |out| encoder.run(&mut input, out))?;
                    }
                }
                while zstd_step(&mut out, |out| encoder.flush(out))? > 0 {}
            }
            Compressor::Brotli(writer) => {
                for piece in pieces.iter().flat_map(|piece| piece.chunks(BROTLI_PIECE)) {
                    writer.write_all(piece)?;
                }
                writer.flush()?;
                out = std::mem::take(writer.get_mut());
            }
            Compressor::Gzip(gzip) => gzip.compress(pieces, &mut out)?,
        }
        Ok(out.into())
    }

    /// What a decoder expects at the end.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn finish(self) -> io::Result<Bytes> {
        let mut out = Vec::new();
        match self {
            Compressor::Zstd(mut encoder) => {
                while zstd_step(&mut out, |out| encoder.finish(out, false))? > 0 {}
            }
            Compressor::Brotli(writer) => out = writer.into_inner(),
            Compressor::Gzip(gzip) => gzip.finish(&mut out)?,
        }
        Ok(out.into())
    }
}

/// One step of zstd, with room behind what is there.
fn zstd_step(
    out: &mut Vec<u8>,
    step: impl FnOnce(&mut OutBuffer<'_, Vec<u8>>) -> io::Result<usize>,
) -> io::Result<usize> {
    out.reserve(1024);
    let end = out.len();
    step(&mut OutBuffer::around_pos(out, end))
}

thread_local! {
    /// Without a head of its own. Nothing of one stream is in it when the next one has its turn.
    static DEFLATER: RefCell<Compress> =
        RefCell::new(Compress::new(flate2::Compression::new(GZIP_LEVEL), false));
}

/// One gzip stream: what the next write is compressed by, and what its end says of all of it.
#[derive(Default)]
pub struct Gzip {
    window: Vec<u8>,
    checksum: Crc,
    has_begun: bool,
}

impl Gzip {
    fn compress(&mut self, pieces: &[Bytes], out: &mut Vec<u8>) -> io::Result<()> {
        self.begin(out);
        DEFLATER.with_borrow_mut(|deflater| {
            deflater.reset();
            if !self.window.is_empty() {
                deflater.set_dictionary(&self.window)?;
            }
            for piece in pieces {
                deflate(deflater, piece, FlushCompress::None, out)?;
            }
            deflate(deflater, &[], FlushCompress::Sync, out)
        })?;
        for piece in pieces {
            self.checksum.update(piece);
            self.keep(piece);
        }
        Ok(())
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if !self.has_begun {
            out.extend_from_slice(&GZIP_HEAD);
            self.has_begun = true;
        }
    }

    /// Keeps the last bytes, and no more room than they need.
    fn keep(&mut self, piece: &[u8]) {
        let piece = &piece[piece.len().saturating_sub(WINDOW)..];
        let excess = (self.window.len() + piece.len()).saturating_sub(WINDOW);
        self.window.drain(..excess);
        self.window.reserve_exact(piece.len());
        self.window.extend_from_slice(piece);
    }

    fn finish(mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.begin(out);
        DEFLATER.with_borrow_mut(|deflater| {
            deflater.reset();
            deflate(deflater, &[], FlushCompress::Finish, out)
        })?;
        out.extend_from_slice(&self.checksum.sum().to_le_bytes());
        // By the standard, modulo 2³².
        out.extend_from_slice(&self.checksum.amount().to_le_bytes());
        Ok(())
    }
}

fn deflate(
    deflater: &mut Compress,
    mut input: &[u8],
    flush: FlushCompress,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    loop {
        out.reserve(input.len() / 4 + 128);
        let before = deflater.total_in();
        deflater.compress_vec(input, out, flush)?;
        let taken = usize::try_from(deflater.total_in() - before).unwrap_or(usize::MAX);
        input = input.get(taken..).unwrap_or_default();
        // Room that is left means that there is nothing more to say.
        if input.is_empty() && out.len() < out.capacity() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    const ALL: [Compression; 3] = [Compression::Zstd, Compression::Brotli, Compression::Gzip];

    /// What a decoder makes of what has come so far; an end that has not come is no mistake.
    fn decoded(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        let mut decoder: Box<dyn Read + '_> = match compression {
            Compression::Zstd => Box::new(zstd::Decoder::new(bytes).unwrap()),
            Compression::Brotli => Box::new(brotli::Decompressor::new(bytes, 4096)),
            Compression::Gzip => Box::new(flate2::read::GzDecoder::new(bytes)),
        };
        let (mut all, mut some) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = decoder.read(&mut some) {
            all.extend_from_slice(&some[..read]);
        }
        all
    }

    fn event(number: usize) -> Bytes {
        let id = number.wrapping_mul(2_654_435_761) % 0xffff_ffff;
        Bytes::from(format!(
            "event: update\ndata: {{\"operationType\":\"update\",\"documentKey\":{{\"_id\":{{\"$oid\":\
             \"65f1{id:08x}a1b2c3d4{id:08x}\"}}}},\"fullDocument\":{{\"status\":\"paid\",\"total\":{}}}}}\n\
             id: 826B012E{number:08X}000000012B042C0100296E5A1004\n\n",
            id % 100_000
        ))
    }

    #[test]
    fn each_event_can_be_decoded_when_it_has_come() {
        for compression in ALL {
            let mut compressor = Compressor::new(compression).unwrap();
            let (mut plain, mut wire) = (Vec::new(), Vec::new());
            for number in 0..50 {
                let event = event(number);
                plain.extend_from_slice(&event);
                wire.extend_from_slice(&compressor.compress(&[event]).unwrap());
                assert_eq!(decoded(compression, &wire), plain, "{compression:?} {number}");
            }
            assert!(wire.len() * 3 < plain.len(), "{compression:?} {} {}", wire.len(), plain.len());
            wire.extend_from_slice(&compressor.finish().unwrap());
            assert_eq!(decoded(compression, &wire), plain, "{compression:?}");
        }
    }

    #[test]
    fn an_end_is_what_decoders_expect() {
        for compression in ALL {
            for count in [0, 1, 3] {
                let mut compressor = Compressor::new(compression).unwrap();
                let (mut plain, mut wire) = (Vec::new(), Vec::new());
                for number in 0..count {
                    plain.extend_from_slice(&event(number));
                    wire.extend_from_slice(&compressor.compress(&[event(number)]).unwrap());
                }
                wire.extend_from_slice(&compressor.finish().unwrap());
                let mut all = Vec::new();
                let wire = wire.as_slice();
                // Unlike above, an end that is missing or wrong is an error here.
                let read = match compression {
                    Compression::Zstd => zstd::Decoder::new(wire).unwrap().read_to_end(&mut all),
                    Compression::Brotli => {
                        brotli::Decompressor::new(wire, 4096).read_to_end(&mut all)
                    }
                    Compression::Gzip => flate2::read::GzDecoder::new(wire).read_to_end(&mut all),
                };
                assert_eq!((read.ok(), &all), (Some(plain.len()), &plain), "{compression:?}");
            }
        }
    }

    #[test]
    fn gzip_holds_no_more_than_its_window() {
        let mut gzip = Gzip::default();
        for number in 0..100 {
            gzip.compress(&[event(number)], &mut Vec::new()).unwrap();
            gzip.compress(&[vec![b'x'; number * 100].into()], &mut Vec::new()).unwrap();
        }
        assert_eq!(gzip.window.len(), WINDOW);
        assert!(gzip.window.capacity() <= 2 * WINDOW, "{}", gzip.window.capacity());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_goes_in_comes_out(
            writes in prop::collection::vec(
                prop::collection::vec(
                    (any::<u8>(), 0_usize..9000, any::<bool>()).prop_map(|(byte, length, is_flat)| {
                        (0..length).map(|at| if is_flat { byte } else { ((at * at) >> 3) as u8 ^ byte })
                            .collect::<Vec<u8>>()
                    }),
                    0..4,
                ),
                0..6,
            ),
        ) {
            for compression in ALL {
                let mut compressor = Compressor::new(compression).unwrap();
                let (mut plain, mut wire) = (Vec::new(), Vec::new());
                for write in &writes {
                    let pieces: Vec<Bytes> = write.iter().cloned().map(Bytes::from).collect();
                    plain.extend_from_slice(&pieces.concat());
                    wire.extend_from_slice(&compressor.compress(&pieces).unwrap());
                    prop_assert_eq!(&decoded(compression, &wire), &plain);
                }
            }
        }
    }
}
