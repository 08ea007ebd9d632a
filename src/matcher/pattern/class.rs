//! Classes of characters, `[a-z]`, from PCRE to the syntax of the `regex` crate.
//!
//! Every character but letters and digits is written as a number, so that nothing in it can be
//! taken for an operator of that syntax, which knows `&&`, `--`, `~~` and classes in classes.

use super::translate::{Escape, PatternError, Translator, refuse};

impl Translator {
    pub(super) fn class(&mut self) -> Result<(), PatternError> {
        self.atom("[")?;
        if self.rest.next_if_eq(&'^').is_some() {
            self.out.push('^');
        }
        let mut is_first = true;
        loop {
            let Some(char) = self.rest.next() else {
                return refuse("a `[` without its `]`", "");
            };
            match char {
                ']' if !is_first => break,
                '[' if matches!(self.rest.peek(), Some(':' | '.' | '=')) => self.posix()?,
                _ => self.member(char)?,
            }
            is_first = false;
        }
        self.out.push(']');
        Ok(())
    }

    /// One character, range or set inside a class.
    fn member(&mut self, char: char) -> Result<(), PatternError> {
        let Some(from) = self.class_char(char)? else { return Ok(()) };
        let mut ahead = self.rest.clone();
        let is_range = ahead.next() == Some('-') && ahead.next().is_some_and(|char| char != ']');
        if !is_range {
            self.class_literal(from);
            return Ok(());
        }
        self.rest.next();
        let Some(next) = self.rest.next() else { return Ok(()) };
        // Up to a set there is no range: the dash is itself.
        let before = self.out.len();
        match self.class_char(next)? {
            Some(to) if from <= to => {
                self.class_literal(from);
                self.out.push('-');
                self.class_literal(to);
            }
            Some(_) => return refuse("a range that runs backwards", ""),
            None => {
                let set = self.out.split_off(before);
                self.class_literal(from);
                self.class_literal('-');
                self.out.push_str(&set);
            }
        }
        Ok(())
    }

    /// A character of a class; a set is written out at once and gives none.
    fn class_char(&mut self, char: char) -> Result<Option<char>, PatternError> {
        if char != '\\' {
            return Ok(Some(char));
        }
        match self.rest.peek() {
            Some('b') => {
                self.rest.next();
                return Ok(Some('\x08'));
            }
            Some('Q') => {
                self.rest.next();
                for char in self.quoted() {
                    self.class_literal(char);
                }
                return Ok(None);
            }
            Some('E') => {
                self.rest.next();
                return Ok(None);
            }
            _ => {}
        }
        match self.escaped()? {
            Escape::Char(char) => return Ok(Some(char)),
            Escape::Property(property) => self.out.push_str(&property),
            Escape::Set(set, false) => self.out.push_str(set),
            Escape::Set(set, true) => self.out.push_str(&format!("[^{set}]")),
        }
        Ok(None)
    }

    fn class_literal(&mut self, char: char) {
        if char.is_ascii_alphanumeric() {
            self.out.push(char);
        } else {
            self.out.push_str(&format!("\\x{{{:X}}}", u32::from(char)));
        }
    }

    /// `[:alpha:]`; otherwise the bracket is itself.
    fn posix(&mut self) -> Result<(), PatternError> {
        let kind = self.rest.peek().copied();
        let ahead: String = self.rest.clone().skip(1).take_while(|char| *char != ']').collect();
        let Some(name) = ahead.strip_suffix(|last| Some(last) == kind) else {
            return self.member('[');
        };
        if kind != Some(':') {
            return refuse("a collating element", "");
        }
        self.out.push_str(&format!("[:{name}:]"));
        for _ in 0..ahead.chars().count() + 2 {
            self.rest.next();
        }
        Ok(())
    }
}
