//! Dates as text.

use std::fmt::Write;

use super::unit::Local;
use crate::matcher::expr::item::Failure;

/// One piece of a format.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Piece {
    Text(Box<str>),
    /// The letter behind the `%`.
    Part(char),
}

/// The letters that formats know.
const LETTERS: &str = "dGHjLmMSuUVwYzZ";

/// Takes a format apart; else the letter that it does not know.
pub(in crate::matcher::expr) fn pieces(format: &str) -> Result<Vec<Piece>, Option<char>> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = format.chars();
    while let Some(char) = rest.next() {
        if char != '%' {
            text.push(char);
            continue;
        }
        match rest.next() {
            Some('%') => text.push('%'),
            Some(letter) if LETTERS.contains(letter) => {
                if !text.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut text).into()));
                }
                pieces.push(Piece::Part(letter));
            }
            other => return Err(other),
        }
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text.into()));
    }
    Ok(pieces)
}

/// Writes a date; `offset` is that of its time zone, in milliseconds.
pub(in crate::matcher::expr) fn write(
    pieces: &[Piece],
    local: Local,
    offset: i64,
) -> Result<String, Failure> {
    let mut out = String::new();
    for piece in pieces {
        let letter = match piece {
            Piece::Text(text) => {
                out.push_str(text);
                continue;
            }
            Piece::Part(letter) => *letter,
        };
        let (number, width) = match letter {
            'Y' => (year(local.year)?, 4),
            'G' => (year(local.iso_week_year())?, 4),
            'm' => (local.month, 2),
            'd' => (local.day, 2),
            'H' => (local.hour(), 2),
            'M' => (local.minute(), 2),
            'S' => (local.second(), 2),
            'L' => (local.millisecond(), 3),
            'j' => (local.day_of_year(), 3),
            'U' => (local.week(), 2),
            'V' => (local.iso_week(), 2),
            'u' => (local.iso_day_of_week(), 1),
            'w' => (local.day_of_week(), 1),
            letter => {
                write_offset(&mut out, letter, offset / 60_000);
                continue;
            }
        };
        let _ = write!(out, "{number:0width$}");
    }
    Ok(out)
}

fn write_offset(out: &mut String, letter: char, minutes: i64) {
    let sign = if minutes < 0 { '-' } else { '+' };
    let _ = match letter {
        'z' => write!(out, "{sign}{:02}{:02}", minutes.abs() / 60, minutes.abs() % 60),
        _ => write!(out, "{minutes}"),
    };
}

/// As text, only years of four digits are written.
fn year(year: i64) -> Result<i64, Failure> {
    if (0..=9999).contains(&year) { Ok(year) } else { Err(Failure) }
}

/// The date as text, always with milliseconds.
pub(in crate::matcher::expr) fn iso(millis: i64) -> String {
    let local = Local::of(millis);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        local.year,
        local.month,
        local.day,
        local.hour(),
        local.minute(),
        local.second(),
        local.millisecond()
    )
}

/// A timestamp as `mongod` turns it into text: without the year, with its increment.
pub(in crate::matcher::expr) fn pretty(timestamp: u64) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (seconds, increment) = ((timestamp >> 32) as i64, timestamp & 0xffff_ffff);
    let local = Local::of(seconds * 1000);
    let name = usize::try_from(local.month - 1).ok().and_then(|month| MONTHS.get(month));
    let name = name.copied().unwrap_or_default();
    let (hour, minute, second) = (local.hour(), local.minute(), local.second());
    format!("{name} {:2} {hour:02}:{minute:02}:{second:02}:{increment}", local.day)
}
