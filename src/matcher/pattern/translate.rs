//! From PCRE, as `mongod` runs it, to the syntax of the `regex` crate.
//!
//! Both look much alike and differ in details that change what matches: `\w`, `\d` and `\b` know
//! only ASCII in `mongod`, `$` also stands before a last newline, spaces inside `[ ]` count even
//! under the option x, and `[a&&b]` is no intersection. So everything is read here and written
//! anew. What a linear-time engine cannot do, looking around and back, is refused.
//!
//! One difference stays: under the option m, `^` here also stands after a newline that ends the
//! text, which shows only where nothing need follow it (`^$`).

/// Why a pattern is refused, and what to do about it.
pub(super) type Refusal = (String, Option<String>);

/// The options that change how a pattern is read rather than how it is run.
#[derive(Clone, Copy)]
pub(super) struct Flags {
    pub multi_line: bool,
    pub extended: bool,
}

const SPACE: &str = r"\t\n\x0B\x0C\r\x20";
const HORIZONTAL: &str = r"\t\x20\u{A0}\u{1680}\u{180E}\u{2000}-\u{200A}\u{202F}\u{205F}\u{3000}";
const VERTICAL: &str = r"\n\x0B\x0C\r\u{85}\u{2028}\u{2029}";
const WORD: &str = "0-9A-Za-z_";
const DIGIT: &str = "0-9";
/// `$` and `\Z`: the end, or before a newline that is the end. Nothing but the end can follow, so
/// that taking the newline along does no harm.
const END: &str = r"(?:\n?\z)";

pub(super) fn translate(source: &str, flags: Flags) -> Result<String, Refusal> {
    let mut translator = Translator {
        rest: source.chars().collect::<Vec<_>>().into_iter().peekable(),
        out: String::with_capacity(source.len() + 16),
        flags,
        outer: Vec::new(),
    };
    translator.run()?;
    Ok(translator.out)
}

struct Translator {
    rest: std::iter::Peekable<std::vec::IntoIter<char>>,
    out: String,
    flags: Flags,
    /// The flags around each open group.
    outer: Vec<Flags>,
}

/// An escape that stands for a character or for a set of them.
enum Escape {
    Char(char),
    /// The inside of a class, and whether it is negated.
    Set(&'static str, bool),
    Property(String),
}

fn refuse<T>(message: &str, hint: &str) -> Result<T, Refusal> {
    let hint = (!hint.is_empty()).then(|| hint.to_owned());
    Err((format!("{message} in a regular expression"), hint))
}

const LINEAR: &str = "expressions run in linear time here, which this cannot";

impl Translator {
    fn run(&mut self) -> Result<(), Refusal> {
        while let Some(char) = self.rest.next() {
            match char {
                '\\' => self.escape()?,
                '[' => self.class()?,
                '(' => self.group()?,
                ')' => {
                    if let Some(flags) = self.outer.pop() {
                        self.flags = flags;
                    }
                    self.out.push(')');
                }
                '$' if self.flags.multi_line => self.out.push_str("(?m:$)"),
                '$' => self.out.push_str(END),
                '^' if self.flags.multi_line => self.out.push_str("(?m:^)"),
                '^' => self.out.push_str(r"\A"),
                '*' | '+' | '?' => {
                    self.out.push(char);
                    self.after_quantifier()?;
                }
                '{' => self.brace()?,
                '|' | '.' => self.out.push(char),
                '#' if self.flags.extended => {
                    while self.rest.next().is_some_and(|char| char != '\n') {}
                }
                _ if self.flags.extended && is_space(char) => {}
                _ => self.literal(char),
            }
        }
        Ok(())
    }

    fn literal(&mut self, char: char) {
        self.out.push_str(&regex::escape(char.encode_utf8(&mut [0; 4])));
    }

    /// Lazy changes which match is found, not whether there is one.
    fn after_quantifier(&mut self) -> Result<(), Refusal> {
        match self.rest.peek() {
            Some('+') => refuse("a possessive quantifier", LINEAR),
            Some('?') => {
                self.rest.next();
                self.out.push('?');
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A counted repetition, or else a plain brace.
    fn brace(&mut self) -> Result<(), Refusal> {
        let ahead: String = self.rest.clone().take_while(|char| *char != '}').collect();
        let is_closed = self.rest.clone().any(|char| char == '}');
        let is_count = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let is_repetition = is_closed
            && match ahead.split_once(',') {
                None => is_count(&ahead),
                Some((from, to)) => is_count(from) && (to.is_empty() || is_count(to)),
            };
        if !is_repetition {
            self.out.push_str(r"\{");
            return Ok(());
        }
        self.out.push('{');
        self.out.push_str(&ahead);
        self.out.push('}');
        for _ in 0..=ahead.len() {
            self.rest.next();
        }
        self.after_quantifier()
    }

    fn escape(&mut self) -> Result<(), Refusal> {
        match self.rest.peek().copied() {
            Some('b') => self.out.push_str(r"(?-u:\b)"),
            Some('B') => self.out.push_str(r"(?-u:\B)"),
            Some('A') => self.out.push_str(r"\A"),
            Some('z') => self.out.push_str(r"\z"),
            Some('Z') => self.out.push_str(END),
            Some('N') => self.out.push_str(r"[^\n]"),
            Some('Q') => {
                self.rest.next();
                for char in self.quoted() {
                    self.literal(char);
                }
                return Ok(());
            }
            Some('E') => {}
            Some('1'..='9' | 'g' | 'k') => return refuse("a reference back", LINEAR),
            Some('G' | 'K' | 'R' | 'X' | 'C') => {
                return refuse(r"`\G`, `\K`, `\R`, `\X` or `\C`", "write it in another way");
            }
            _ => {
                match self.escaped()? {
                    Escape::Char(char) => self.literal(char),
                    Escape::Property(property) => self.out.push_str(&property),
                    Escape::Set(set, is_negated) => {
                        self.out.push_str(if is_negated { "[^" } else { "[" });
                        self.out.push_str(set);
                        self.out.push(']');
                    }
                }
                return Ok(());
            }
        }
        self.rest.next();
        Ok(())
    }

    /// The characters up to `\E`, or to the end.
    fn quoted(&mut self) -> Vec<char> {
        let mut chars = Vec::new();
        while let Some(char) = self.rest.next() {
            if char == '\\' && self.rest.peek() == Some(&'E') {
                self.rest.next();
                break;
            }
            chars.push(char);
        }
        chars
    }

    /// An escape that means the same inside and outside of a class.
    fn escaped(&mut self) -> Result<Escape, Refusal> {
        let Some(char) = self.rest.next() else {
            return refuse(r"a `\` at the end", "");
        };
        Ok(match char {
            'd' | 'D' => Escape::Set(DIGIT, char == 'D'),
            'w' | 'W' => Escape::Set(WORD, char == 'W'),
            's' | 'S' => Escape::Set(SPACE, char == 'S'),
            'h' | 'H' => Escape::Set(HORIZONTAL, char == 'H'),
            'v' | 'V' => Escape::Set(VERTICAL, char == 'V'),
            'a' => Escape::Char('\x07'),
            'e' => Escape::Char('\x1b'),
            'f' => Escape::Char('\x0c'),
            'n' => Escape::Char('\n'),
            'r' => Escape::Char('\r'),
            't' => Escape::Char('\t'),
            '0'..='7' => {
                let mut code = char.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let Some(digit) = self.rest.peek().and_then(|char| char.to_digit(8)) else {
                        break;
                    };
                    code = code * 8 + digit;
                    self.rest.next();
                }
                self.code_point(code)?
            }
            'x' => self.hexadecimal()?,
            'o' => {
                let digits = self.braced()?;
                self.code_point(u32::from_str_radix(&digits, 8).unwrap_or(u32::MAX))?
            }
            'c' => match self.rest.next() {
                Some(char) if char.is_ascii() => {
                    Escape::Char((char.to_ascii_uppercase() as u8 ^ 0x40) as char)
                }
                _ => return refuse(r"a `\c` without a letter", ""),
            },
            'p' | 'P' => self.property(char == 'P')?,
            char if char.is_ascii_alphanumeric() => {
                return refuse(&format!(r"an unknown escape `\{char}`"), "");
            }
            char => Escape::Char(char),
        })
    }

    fn code_point(&self, code: u32) -> Result<Escape, Refusal> {
        match char::from_u32(code) {
            Some(char) => Ok(Escape::Char(char)),
            None => refuse("a number that is no character", ""),
        }
    }

    fn braced(&mut self) -> Result<String, Refusal> {
        if self.rest.next() != Some('{') {
            return refuse("an escape without its `{ }`", "");
        }
        let inside: String = self.rest.by_ref().take_while(|char| *char != '}').collect();
        Ok(inside)
    }

    fn hexadecimal(&mut self) -> Result<Escape, Refusal> {
        let mut digits = String::new();
        if self.rest.peek() == Some(&'{') {
            digits = self.braced()?;
        } else {
            while digits.len() < 2 && self.rest.peek().is_some_and(char::is_ascii_hexdigit) {
                digits.extend(self.rest.next());
            }
            if digits.is_empty() {
                digits.push('0');
            }
        }
        self.code_point(u32::from_str_radix(&digits, 16).unwrap_or(u32::MAX))
    }

    fn property(&mut self, mut is_negated: bool) -> Result<Escape, Refusal> {
        let mut name = match self.rest.peek() {
            Some('{') => self.braced()?,
            Some(_) => self.rest.next().map(String::from).unwrap_or_default(),
            None => return refuse(r"a `\p` without a property", ""),
        };
        if let Some(negated) = name.strip_prefix('^') {
            is_negated = !is_negated;
            name = negated.to_owned();
        }
        if name == "L&" {
            name = "LC".to_owned();
        }
        Ok(Escape::Property(format!(r"\{}{{{name}}}", if is_negated { 'P' } else { 'p' })))
    }

    fn group(&mut self) -> Result<(), Refusal> {
        if self.rest.peek() == Some(&'*') {
            return refuse("a verb such as `(*UCP)`", "");
        }
        if self.rest.peek() != Some(&'?') {
            // What a group caught is never asked for.
            self.open();
            return Ok(());
        }
        self.rest.next();
        match self.rest.next() {
            Some(':' | '|') => self.open(),
            Some('#') => while self.rest.next().is_some_and(|char| char != ')') {},
            Some('=' | '!') => return refuse("looking ahead", LINEAR),
            Some('>') => return refuse("an atomic group", LINEAR),
            Some('<') if matches!(self.rest.peek(), Some('=' | '!')) => {
                return refuse("looking behind", LINEAR);
            }
            Some(open @ ('<' | '\'')) => self.named(if open == '<' { '>' } else { '\'' }),
            Some('P') if self.rest.peek() == Some(&'<') => self.named('>'),
            Some(flag @ ('i' | 'm' | 's' | 'x' | 'U' | 'J' | 'n' | '-' | '^')) => {
                self.flags(flag)?;
            }
            _ => return refuse("a reference, a condition or a call", LINEAR),
        }
        Ok(())
    }

    fn open(&mut self) {
        self.outer.push(self.flags);
        self.out.push_str("(?:");
    }

    fn named(&mut self, close: char) {
        while self.rest.next().is_some_and(|char| char != close) {}
        self.open();
    }

    /// Flags for a group, `(?i:…)`, or for the rest of the group around them, `(?i)`.
    fn flags(&mut self, first: char) -> Result<(), Refusal> {
        let (mut on, mut off) = (String::new(), String::new());
        let mut flags = self.flags;
        let mut is_on = true;
        let mut next = Some(first);
        let is_group = loop {
            match next {
                Some(')') => break false,
                Some(':') => break true,
                Some('-') => is_on = false,
                Some('^') => {
                    flags = Flags { multi_line: false, extended: false };
                    off.push_str("is");
                }
                Some('m') => flags.multi_line = is_on,
                Some('x') => flags.extended = is_on,
                Some(flag @ ('i' | 's')) => {
                    if is_on { &mut on } else { &mut off }.push(flag);
                }
                // Greediness and names do not change whether there is a match.
                Some('U' | 'J' | 'n') => {}
                _ => return refuse("an unknown flag", "known are i, m, s and x"),
            }
            next = self.rest.next();
        };
        off.retain(|flag| !on.contains(flag));
        let mut text = on;
        if !off.is_empty() {
            text.push('-');
            text.push_str(&off);
        }
        if is_group {
            self.outer.push(self.flags);
            self.out.push_str(&format!("(?{text}:"));
        } else if !text.is_empty() {
            self.out.push_str(&format!("(?{text})"));
        }
        self.flags = flags;
        Ok(())
    }

    fn class(&mut self) -> Result<(), Refusal> {
        self.out.push('[');
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
    fn member(&mut self, char: char) -> Result<(), Refusal> {
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
    fn class_char(&mut self, char: char) -> Result<Option<char>, Refusal> {
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
    fn posix(&mut self) -> Result<(), Refusal> {
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

/// What the option x skips.
fn is_space(char: char) -> bool {
    matches!(char, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}
