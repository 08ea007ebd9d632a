//! From PCRE, as `mongod` runs it, to the syntax of the `regex` crate.
//!
//! The two look much alike, and differ in details that change what matches: in `mongod`, `\w`, `\d`
//! and `\b` cover only ASCII, `$` also matches before a last newline, spaces inside `[ ]` count
//! even under the option x, and `[a&&b]` is not an intersection. Everything is therefore parsed
//! here and written again. Constructs that a linear-time engine does not support, look-around and
//! back-references, are refused.
//!
//! One difference remains: under the option m, `^` also matches after a newline that ends the text,
//! which shows only if nothing has to follow it (`^$`).

/// Why a pattern is refused, and what to do about it.
pub(super) type PatternError = (String, Option<String>);

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
/// `$` and `\Z`: the end, or before a newline that is the end. Without looking ahead, the newline
/// has to be taken along, which does no harm as long as nothing follows; what does is refused.
const END: &str = r"(?:\n?\z)";

pub(super) fn translate(source: &str, flags: Flags) -> Result<String, PatternError> {
    let mut translator = Translator {
        rest: source.chars().collect::<Vec<_>>().into_iter().peekable(),
        out: String::with_capacity(source.len() + 16),
        flags,
        brackets: source.matches('(').count(),
        outer: Vec::new(),
        is_over: false,
    };
    translator.run()?;
    Ok(translator.out)
}

pub(super) struct Translator {
    pub(super) rest: std::iter::Peekable<std::vec::IntoIter<char>>,
    pub(super) out: String,
    flags: Flags,
    /// How many groups there can be at most.
    brackets: usize,
    /// The open groups.
    outer: Vec<Outer>,
    /// Whether an end of the text lies behind, so that nothing else may follow.
    is_over: bool,
}

/// What stands around an open group.
struct Outer {
    flags: Flags,
    was_over: bool,
    /// Whether an earlier branch of the group ends the text.
    branch_is_over: bool,
}

/// An escape that stands for a character or for a set of them.
pub(super) enum Escape {
    Char(char),
    /// The inside of a class, and whether it is negated.
    Set(&'static str, bool),
    Property(String),
}

pub(super) fn refuse<T>(message: &str, hint: &str) -> Result<T, PatternError> {
    let hint = (!hint.is_empty()).then(|| hint.to_owned());
    Err((format!("the regular expression has {message}"), hint))
}

const LINEAR: &str = "regular expressions run in linear time here, which rules this out: write it as several \
                      conditions, for example with `$not`";

impl Translator {
    fn run(&mut self) -> Result<(), PatternError> {
        while let Some(char) = self.rest.next() {
            match char {
                '\\' => self.escape()?,
                '[' => self.class()?,
                '(' => self.group()?,
                ')' => {
                    if let Some(outer) = self.outer.pop() {
                        self.flags = outer.flags;
                        self.is_over |= outer.branch_is_over;
                    }
                    self.out.push(')');
                }
                '|' => {
                    match self.outer.last_mut() {
                        Some(outer) => {
                            outer.branch_is_over |= self.is_over;
                            self.is_over = outer.was_over;
                        }
                        None => self.is_over = false,
                    }
                    self.out.push('|');
                }
                '$' if !self.flags.multi_line => {
                    self.out.push_str(END);
                    self.is_over = true;
                }
                '$' => self.atom("(?m:$)")?,
                '^' if self.flags.multi_line => self.atom("(?m:^)")?,
                '^' => self.atom(r"\A")?,
                '.' => self.atom(".")?,
                '*' | '+' | '?' => {
                    self.out.push(char);
                    self.after_quantifier()?;
                }
                '{' => self.brace()?,
                '#' if self.flags.extended => {
                    while self.rest.next().is_some_and(|char| char != '\n') {}
                }
                _ if self.flags.extended && is_space(char) => {}
                _ => self.literal(char)?,
            }
        }
        Ok(())
    }

    /// Something that matches, and so may not come after the end.
    pub(super) fn atom(&mut self, translated: &str) -> Result<(), PatternError> {
        self.before_atom()?;
        self.out.push_str(translated);
        Ok(())
    }

    fn before_atom(&self) -> Result<(), PatternError> {
        if self.is_over {
            return refuse(
                r"something after `$` or `\Z`",
                "only the end can follow; for the end of a line, use the option m",
            );
        }
        Ok(())
    }

    fn literal(&mut self, char: char) -> Result<(), PatternError> {
        self.atom(&regex::escape(char.encode_utf8(&mut [0; 4])))
    }

    /// Lazy changes which match is found, not whether there is one.
    fn after_quantifier(&mut self) -> Result<(), PatternError> {
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
    fn brace(&mut self) -> Result<(), PatternError> {
        let ahead: String = self.rest.clone().take_while(|char| *char != '}').collect();
        let is_closed = self.rest.clone().any(|char| char == '}');
        let is_count = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let is_repetition = is_closed
            && match ahead.split_once(',') {
                None => is_count(&ahead),
                Some((from, to)) => is_count(from) && (to.is_empty() || is_count(to)),
            };
        if !is_repetition {
            return self.atom(r"\{");
        }
        self.out.push('{');
        self.out.push_str(&ahead);
        self.out.push('}');
        for _ in 0..=ahead.len() {
            self.rest.next();
        }
        self.after_quantifier()
    }

    fn escape(&mut self) -> Result<(), PatternError> {
        match self.rest.peek().copied() {
            Some('b') => self.atom(r"(?-u:\b)")?,
            Some('B') => self.atom(r"(?-u:\B)")?,
            Some('A') => self.atom(r"\A")?,
            Some('z') => self.atom(r"\z")?,
            Some('Z') => {
                self.out.push_str(END);
                self.is_over = true;
            }
            Some('N') => self.atom(r"[^\n]")?,
            Some('Q') => {
                self.rest.next();
                for char in self.quoted() {
                    self.literal(char)?;
                }
                return Ok(());
            }
            Some('E') => {}
            Some('g' | 'k') => return refuse("a back-reference", LINEAR),
            Some('1'..='9') if self.refers_back() => return refuse("a back-reference", LINEAR),
            Some('G' | 'K' | 'R' | 'X' | 'C') => {
                return refuse(r"`\G`, `\K`, `\R`, `\X` or `\C`", "write it in another way");
            }
            _ => {
                return match self.escaped()? {
                    Escape::Char(char) => self.literal(char),
                    Escape::Property(property) => self.atom(&property),
                    Escape::Set(set, true) => self.atom(&format!("[^{set}]")),
                    Escape::Set(set, false) => self.atom(&format!("[{set}]")),
                };
            }
        }
        self.rest.next();
        Ok(())
    }

    /// Whether the number ahead is that of a group: any single digit, and more if there are so
    /// many groups. Otherwise it is the octal code of a character.
    fn refers_back(&self) -> bool {
        let digits: String = self.rest.clone().take_while(char::is_ascii_digit).collect();
        let is_octal = digits.len() > 1 && digits.starts_with(|char| char <= '7');
        !is_octal || digits.parse::<usize>().is_ok_and(|number| number <= self.brackets)
    }

    /// The characters up to `\E`, or to the end.
    pub(super) fn quoted(&mut self) -> Vec<char> {
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
    pub(super) fn escaped(&mut self) -> Result<Escape, PatternError> {
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

    fn code_point(&self, code: u32) -> Result<Escape, PatternError> {
        match char::from_u32(code) {
            Some(char) => Ok(Escape::Char(char)),
            None => refuse("a number that is not a character", ""),
        }
    }

    fn braced(&mut self) -> Result<String, PatternError> {
        if self.rest.next() != Some('{') {
            return refuse("an escape without its `{ }`", "");
        }
        let inside: String = self.rest.by_ref().take_while(|char| *char != '}').collect();
        Ok(inside)
    }

    fn hexadecimal(&mut self) -> Result<Escape, PatternError> {
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

    fn property(&mut self, mut is_negated: bool) -> Result<Escape, PatternError> {
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

    fn group(&mut self) -> Result<(), PatternError> {
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
            Some('=' | '!') => return refuse("a look-ahead", LINEAR),
            Some('>') => return refuse("an atomic group", LINEAR),
            Some('<') if matches!(self.rest.peek(), Some('=' | '!')) => {
                return refuse("a look-behind", LINEAR);
            }
            Some(open @ ('<' | '\'')) => self.named(if open == '<' { '>' } else { '\'' }),
            Some('P') if self.rest.peek() == Some(&'<') => self.named('>'),
            // `(?)` sets none.
            Some(flag @ ('i' | 'm' | 's' | 'x' | 'U' | 'J' | 'n' | '-' | '^' | ')')) => {
                self.flags(flag)?;
            }
            _ => return refuse("a reference, a condition or a call", LINEAR),
        }
        Ok(())
    }

    fn enter(&mut self) {
        self.outer.push(Outer { flags: self.flags, was_over: self.is_over, branch_is_over: false });
    }

    fn open(&mut self) {
        self.enter();
        self.out.push_str("(?:");
    }

    fn named(&mut self, close: char) {
        while self.rest.next().is_some_and(|char| char != close) {}
        self.open();
    }

    /// Flags for a group, `(?i:…)`, or for the rest of the group around them, `(?i)`.
    fn flags(&mut self, first: char) -> Result<(), PatternError> {
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
                _ => return refuse("an unknown flag", "the flags are i, m, s and x"),
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
            self.enter();
            self.out.push_str(&format!("(?{text}:"));
        } else if !text.is_empty() {
            self.out.push_str(&format!("(?{text})"));
        }
        self.flags = flags;
        Ok(())
    }
}

/// What the option x skips.
fn is_space(char: char) -> bool {
    matches!(char, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}
