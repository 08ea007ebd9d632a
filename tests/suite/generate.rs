//! Filters and documents made up from a seed. Values come from a small pool, so that filters do
//! match documents, and everything that is special about a type is in the pool.

use bson::{Bson, Decimal128, Document, doc, oid::ObjectId};

pub struct Generator {
    pub(crate) random: fastrand::Rng,
}

impl Generator {
    pub fn new(seed: u64) -> Generator {
        Generator { random: fastrand::Rng::with_seed(seed) }
    }

    pub fn coin(&mut self) -> bool {
        self.random.bool()
    }

    pub(crate) fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.random.usize(0..choices.len())].clone()
    }

    /// A document with some of the fields that filters ask for.
    pub fn document(&mut self) -> Document {
        let mut document = Document::new();
        for field in ["a", "b", "c"] {
            if self.random.u8(0..10) < 8 {
                document.insert(field, self.value(3));
            }
        }
        document
    }

    pub(crate) fn number(&mut self) -> Bson {
        let decimal = |text: &str| Bson::Decimal128(text.parse::<Decimal128>().unwrap());
        match self.random.u8(0..14) {
            0..=3 => Bson::Int32(self.random.i32(-2..4)),
            4 | 5 => Bson::Int64(self.random.i64(-2..4)),
            6 | 7 => Bson::Double(f64::from(self.random.i32(-4..8)) / 2.0),
            8 | 9 => decimal(self.pick(&["0", "1", "1.0", "1.5", "2E0", "-1", "0E+3", "0.1"])),
            10 => Bson::Double(self.pick(&[f64::NAN, f64::INFINITY, -0.0, 0.1, 1e300])),
            11 => decimal(self.pick(&["NaN", "Infinity", "1E300", "9007199254740993", "1E-6000"])),
            12 => Bson::Int64(self.pick(&[i64::MAX, i64::MIN, 1 << 53, (1 << 53) + 1])),
            _ => Bson::Double(self.pick(&[
                9_007_199_254_740_992.0,
                9_223_372_036_854_775_808.0,
                -9_223_372_036_854_775_808.0,
            ])),
        }
    }

    fn scalar(&mut self) -> Bson {
        match self.random.u8(0..26) {
            0..=8 => self.number(),
            9..=12 => Bson::String(self.pick(&["", "a", "ab", "b", "A", "a\nb", "é"]).to_owned()),
            13 | 14 => Bson::Null,
            15 => Bson::Boolean(self.coin()),
            16 => Bson::DateTime(bson::DateTime::from_millis(self.random.i64(-1..3))),
            17 => Bson::Timestamp(bson::Timestamp {
                // Not zero: the server puts the time there.
                time: self.pick(&[1, 2, u32::MAX]),
                increment: self.random.u32(0..2),
            }),
            18 => Bson::ObjectId(ObjectId::from_bytes([self.random.u8(0..3); 12])),
            19 => Bson::Binary(bson::Binary {
                subtype: self.pick(&[0_u8, 4, 5]).into(),
                bytes: self.pick(&[&b""[..], b"\x01", b"\x05", b"\x01\x02"]).to_vec(),
            }),
            20 => Bson::MinKey,
            21 => Bson::MaxKey,
            22 => Bson::Undefined,
            23 => Bson::Symbol(self.pick(&["a", "b"]).to_owned()),
            24 => regex(self.pick(&["a", "^b"]), self.pick(&["", "i"])),
            _ => Bson::JavaScriptCode("a".to_owned()),
        }
    }

    pub(crate) fn value(&mut self, depth: u8) -> Bson {
        if depth == 0 {
            return self.scalar();
        }
        match self.random.u8(0..10) {
            0..=4 => self.scalar(),
            5 | 6 => {
                let fields = self.random.usize(0..3);
                let mut document = Document::new();
                for _ in 0..fields {
                    let name = self.pick(&["a", "b", "c", "0", "1"]);
                    document.insert(name, self.value(depth - 1));
                }
                Bson::Document(document)
            }
            _ => {
                let length = self.random.usize(0..4);
                Bson::Array((0..length).map(|_| self.value(depth - 1)).collect())
            }
        }
    }

    /// A value that may stand in a filter.
    fn operand(&mut self) -> Bson {
        loop {
            let value = self.value(2);
            if !matches!(value, Bson::Undefined | Bson::RegularExpression(_)) {
                return value;
            }
        }
    }

    fn path(&mut self) -> &'static str {
        self.pick(&[
            "a", "a", "a", "b", "c", "a.b", "a.b", "a.c", "b.a", "a.b.c", "a.0", "a.1", "a.0.b",
            "a.b.0", "a.0.0", "b.0.a.0", "c.1",
        ])
    }

    pub fn filter(&mut self) -> Document {
        self.conditions(2)
    }

    fn conditions(&mut self, depth: u8) -> Document {
        let mut document = Document::new();
        for _ in 0..self.random.usize(1..3) {
            if depth > 0 && self.random.u8(0..5) == 0 {
                let operator = self.pick(&["$and", "$or", "$nor"]);
                let count = self.random.usize(1..4);
                let branches: Vec<Bson> =
                    (0..count).map(|_| Bson::Document(self.conditions(depth - 1))).collect();
                document.insert(operator, branches);
            } else {
                let path = self.path();
                let condition = self.condition(depth);
                document.insert(path, condition);
            }
        }
        document
    }

    /// What stands behind a field.
    fn condition(&mut self, depth: u8) -> Bson {
        match self.random.u8(0..12) {
            0 | 1 => self.operand(),
            2 => regex(self.pick(&["a", "^a", "b$", "^$", "A"]), self.pick(&["", "i", "s"])),
            _ => Bson::Document(self.operators(depth)),
        }
    }

    fn operators(&mut self, depth: u8) -> Document {
        let mut document = Document::new();
        for _ in 0..self.random.usize(1..3) {
            let (operator, operand) = self.operator(depth);
            document.insert(operator, operand);
        }
        document
    }

    fn operator(&mut self, depth: u8) -> (&'static str, Bson) {
        match self.random.u8(0..30) {
            0..=9 => (self.pick(&["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]), self.operand()),
            10..=14 => (self.pick(&["$in", "$nin", "$all"]), self.list()),
            15 => ("$exists", self.pick(&[Bson::Boolean(true), Bson::Boolean(false)])),
            16 | 17 => (
                "$type",
                self.pick(&[
                    Bson::from("array"),
                    Bson::from("object"),
                    Bson::from("null"),
                    Bson::from("number"),
                    Bson::from(16),
                    Bson::from(vec![Bson::from("string"), Bson::from("double")]),
                ]),
            ),
            18 => ("$size", Bson::Int32(self.random.i32(0..3))),
            19 | 20 => {
                let divisor = self.pick(&[1, 2, 3, -2]);
                ("$mod", Bson::Array(vec![divisor.into(), self.random.i32(-1..2).into()]))
            }
            21 => ("$regex", self.pick(&["a", "^a", "b$", "", "(?i)A"]).into()),
            22 | 23 => {
                let bits = self.pick(&[
                    Bson::Int32(1),
                    Bson::Int32(5),
                    Bson::Array(vec![Bson::Int32(0), Bson::Int32(70)]),
                    Bson::Array(vec![]),
                ]);
                let operators = ["$bitsAllSet", "$bitsAnySet", "$bitsAllClear", "$bitsAnyClear"];
                (self.pick(&operators), bits)
            }
            24 if depth > 0 => ("$not", Bson::Document(self.operators(depth - 1))),
            25 => ("$not", regex(self.pick(&["a", "^b"]), "")),
            26 | 27 if depth > 0 => ("$elemMatch", Bson::Document(self.operators(depth - 1))),
            28 if depth > 0 => ("$elemMatch", Bson::Document(self.conditions(depth - 1))),
            29 if depth > 0 => {
                let inner = self.conditions(depth - 1);
                ("$all", Bson::Array(vec![doc! { "$elemMatch": inner }.into()]))
            }
            _ => ("$eq", self.operand()),
        }
    }

    /// A regular expression, often one that does not compile, and its options.
    pub fn pattern(&mut self) -> (String, &'static str) {
        let mut pattern = String::new();
        for _ in 0..self.random.usize(1..7) {
            pattern.push_str(self.pick(&[
                "a",
                "b",
                "a",
                "é",
                ".",
                "^",
                "$",
                r"\w",
                r"\W",
                r"\d",
                r"\s",
                r"\S",
                r"\b",
                r"\B",
                "[ab]",
                "[^a]",
                r"[\w-]",
                r"[^\W_]",
                "[]a]",
                "[a-é]",
                "[[:alpha:]-]",
                "(",
                ")",
                "(?:",
                "(?i)",
                "(?i:",
                "(?s)",
                "|",
                "*",
                "+",
                "?",
                "{1,2}",
                "{,2}",
                "{2}",
                r"\n",
                "-",
                "&",
                " ",
                "#",
                "]",
                "}",
                r"\.",
                r"\x41",
                r"\x{e9}",
                r"\101",
                r"\Qa.\E",
                r"\z",
                r"\Z",
                r"\A",
                r"\h",
                r"\N",
                r"\pL",
                r"\P{L}",
                r"[\x00-\x40]",
                r"[\b]",
                "_",
                "~~",
                "[a&&b]",
            ]));
        }
        (pattern, self.pick(&["", "", "i", "s", "x", "is"]))
    }

    pub fn text(&mut self) -> String {
        let length = self.random.usize(0..5);
        (0..length)
            .map(|_| {
                self.pick(&[
                    'a', 'b', 'A', 'é', 'É', '\n', ' ', '1', '.', '-', '_', '&', ']', '~', '\t',
                ])
            })
            .collect()
    }

    /// An inclusion or an exclusion, with paths that may collide.
    pub fn projection(&mut self) -> Document {
        let mut document = Document::new();
        let shown = i32::from(self.coin());
        for _ in 0..self.random.usize(0..4) {
            let path =
                self.pick(&["a", "b", "a.b", "a.c", "b.a", "a.b.c", "a.0", "b.0.a", "_id.x"]);
            document.insert(path, shown);
        }
        if self.random.u8(0..4) == 0 {
            document.insert("c", doc! { "a": shown, "b.0": shown });
        }
        if self.random.u8(0..3) == 0 {
            document.insert("_id", i32::from(self.coin()));
        }
        document
    }

    /// An expression that gives a truth, more or less.
    pub fn expression(&mut self, depth: u8) -> Bson {
        if depth == 0 {
            return match self.random.u8(0..8) {
                0 => doc! { "$literal": self.value(1) }.into(),
                1 => self.number(),
                2 => "$$ROOT".into(),
                _ => format!("${}", self.path()).into(),
            };
        }
        let name = self.pick(&[
            "$eq",
            "$ne",
            "$gt",
            "$gte",
            "$lt",
            "$lte",
            "$cmp",
            "$and",
            "$or",
            "$not",
            "$add",
            "$subtract",
            "$multiply",
            "$divide",
            "$mod",
            "$abs",
            "$ceil",
            "$floor",
            "$round",
            "$trunc",
            "$cond",
            "$ifNull",
            "$in",
            "$size",
            "$arrayElemAt",
            "$first",
            "$last",
            "$isArray",
            "$concatArrays",
            "$setIsSubset",
            "$anyElementTrue",
            "$concat",
            "$toLower",
            "$strLenCP",
            "$strcasecmp",
            "$year",
            "$dayOfYear",
            "$hour",
            "$type",
            "$isNumber",
        ]);
        let arguments = match name {
            "$not" | "$abs" | "$ceil" | "$floor" | "$round" | "$trunc" | "$size" | "$first"
            | "$last" | "$isArray" | "$anyElementTrue" | "$toLower" | "$strLenCP" | "$year"
            | "$dayOfYear" | "$hour" | "$type" | "$isNumber" => 1,
            "$cond" => 3,
            "$and" | "$or" | "$add" | "$multiply" | "$concat" | "$concatArrays" => {
                self.random.usize(0..4)
            }
            _ => 2,
        };
        // The server drops arguments that a constant settles, and then does not fail on them.
        let is_lazy = matches!(name, "$and" | "$or" | "$cond" | "$ifNull");
        let arguments: Vec<Bson> = (0..arguments)
            .map(|_| match is_lazy {
                true => format!("${}", self.path()).into(),
                false => self.expression(depth - 1),
            })
            .collect();
        let mut call = Document::new();
        call.insert(name, arguments);
        call.into()
    }

    fn list(&mut self) -> Bson {
        let length = self.random.usize(0..4);
        let mut values: Vec<Bson> = (0..length).map(|_| self.operand()).collect();
        if self.random.u8(0..5) == 0 {
            values.push(regex(self.pick(&["a", "^b"]), self.pick(&["", "i"])));
        }
        Bson::Array(values)
    }
}

fn regex(pattern: &str, options: &str) -> Bson {
    Bson::RegularExpression(bson::Regex {
        pattern: pattern.try_into().unwrap(),
        options: options.try_into().unwrap(),
    })
}
