//! Expressions that give values worth comparing: dates in time zones, and arrays gone over.

use bson::{Bson, DateTime, Document, doc};

use crate::generate::Generator;

const UNITS: [&str; 9] =
    ["year", "quarter", "month", "week", "day", "hour", "minute", "second", "millisecond"];

/// With rules that changed, with half hours, on both sides of Greenwich and of the equator. None
/// whose future is still being changed: servers know different versions of it.
const ZONES: [&str; 11] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "America/Sao_Paulo",
    "Pacific/Apia",
    "+05:30",
    "-0330",
    "+14",
    "-11:00",
];

const DAYS: [&str; 8] = ["monday", "Tue", "wednesday", "thu", "FRIDAY", "sat", "sunday", "sun"];

const PARTS: [&str; 13] = [
    "$year",
    "$month",
    "$dayOfMonth",
    "$dayOfWeek",
    "$dayOfYear",
    "$week",
    "$isoWeek",
    "$isoWeekYear",
    "$isoDayOfWeek",
    "$hour",
    "$minute",
    "$second",
    "$millisecond",
];

/// Instants at which clocks were changed somewhere, and ends of months and years.
const EDGES: [i64; 14] = [
    0,
    -1,
    951_782_400_000,    // 2000-02-29
    946_684_800_000,    // 2000-01-01
    1_616_893_200_000,  // 2021-03-28T01:00, Berlin
    1_635_642_000_000,  // 2021-10-31T01:00, Berlin
    1_615_705_200_000,  // 2021-03-14T07:00, New York
    1_636_264_800_000,  // 2021-11-07T06:00, New York
    1_617_462_000_000,  // 2021-04-03T15:00, Lord Howe: half an hour
    1_540_695_600_000,  // 2018-11-04, Sao Paulo: midnight did not exist
    1_325_239_200_000,  // 2011-12-30T10:00, Apia: a day that did not exist
    1_609_459_199_999,  // the end of 2020
    1_735_603_200_000,  // 2024-12-31
    -2_208_988_800_000, // 1900
];

impl Generator {
    /// A document with dates in `d` and `e`, and an array in `a`.
    pub fn dated(&mut self) -> Document {
        let mut document = doc! { "d": self.date(), "e": self.date() };
        let length = self.random.usize(0..5);
        let array: Vec<Bson> = (0..length)
            .map(|_| match self.random.u8(0..4) {
                0 => doc! { "b": self.random.i32(-3..4) }.into(),
                1 => Bson::Int32(self.random.i32(-3..9)),
                2 => Bson::Array(vec![self.random.i32(0..3).into()]),
                _ => self.value(1),
            })
            .collect();
        document.insert("a", array);
        let numbers: Vec<i32> = (0..self.random.usize(0..5)).map(|n| n as i32 * 3 - 2).collect();
        document.insert("n", numbers);
        document
    }

    fn date(&mut self) -> Bson {
        let within = 4 * 366 * 86_400_000_i64;
        let millis = match self.random.u8(0..4) {
            0 => self.pick(&EDGES) + self.random.i64(-3..4) * 1_800_000,
            // What a few days later is such an hour.
            1 => {
                let days = self.random.i64(-3..4) * 86_400_000;
                self.pick(&EDGES) + days + self.random.i64(-3..4) * 1_800_000
            }
            2 => 1_500_000_000_000 + self.random.i64(-within..3 * within),
            _ => self.random.i64(-600_000_000_000..2_000_000_000_000),
        };
        // Where there are milliseconds before 1970, `$dateAdd` of the server loses a second.
        let millis = if millis < 0 { millis - millis % 1000 } else { millis };
        match self.random.u8(0..30) {
            0 => Bson::Null,
            1 => Bson::Timestamp(bson::Timestamp { time: 1_635_642_000, increment: 1 }),
            _ => Bson::DateTime(DateTime::from_millis(millis)),
        }
    }

    fn date_field(&mut self) -> Bson {
        match self.random.u8(0..12) {
            0 => "$missing".into(),
            1..=4 => "$e".into(),
            _ => "$d".into(),
        }
    }

    fn with_zone(&mut self, mut arguments: Document) -> Document {
        if self.random.u8(0..4) > 0 {
            arguments.insert("timezone", self.pick(&ZONES));
        }
        arguments
    }

    /// A function of dates.
    pub fn date_expression(&mut self) -> Document {
        let date = self.date_field();
        let arguments = doc! { "date": date };
        match self.random.u8(0..9) {
            0 | 1 => {
                let (name, mut arguments) = self.addition();
                if self.coin() {
                    arguments = self.with_zone(arguments);
                }
                doc! { name: arguments }
            }
            2 | 3 => {
                let mut arguments = doc! { "startDate": "$d", "endDate": "$e" };
                arguments.insert("unit", self.pick(&UNITS));
                if self.coin() {
                    arguments.insert("startOfWeek", self.pick(&DAYS));
                }
                doc! { "$dateDiff": self.with_zone(arguments) }
            }
            4 | 5 => {
                let mut arguments = arguments;
                arguments.insert("unit", self.pick(&UNITS));
                if self.coin() {
                    arguments.insert("binSize", self.random.i64(1..40));
                }
                if self.coin() {
                    arguments.insert("startOfWeek", self.pick(&DAYS));
                }
                doc! { "$dateTrunc": self.with_zone(arguments) }
            }
            6 => self.parts_expression(arguments),
            7 => {
                let mut arguments = arguments;
                if self.random.u8(0..3) > 0 {
                    let format = "%Y-%m-%d %H:%M:%S.%L|%j %G-%V-%u %U %w|%z %Z|%%";
                    arguments.insert("format", format);
                }
                if self.coin() {
                    arguments.insert("onNull", "none");
                }
                doc! { "$dateToString": self.with_zone(arguments) }
            }
            _ => {
                let name = self.pick(&PARTS);
                doc! { name: self.with_zone(arguments) }
            }
        }
    }

    fn addition(&mut self) -> (&'static str, Document) {
        let name = self.pick(&["$dateAdd", "$dateSubtract"]);
        let mut arguments = doc! { "startDate": self.date_field() };
        arguments.insert("unit", self.pick(&UNITS));
        let amount = match self.random.u8(0..3) {
            0 => Bson::Int64(self.random.i64(-500..500)),
            1 => Bson::Double(f64::from(self.random.i32(-15..15))),
            _ => Bson::Int32(self.random.i32(-3..4)),
        };
        arguments.insert("amount", amount);
        (name, arguments)
    }

    fn parts_expression(&mut self, mut arguments: Document) -> Document {
        if self.coin() {
            let is_iso = self.coin();
            arguments.insert("iso8601", is_iso);
            return doc! { "$dateToParts": self.with_zone(arguments) };
        }
        let is_iso = self.coin();
        let names = if is_iso {
            ["isoWeekYear", "isoWeek", "isoDayOfWeek", "hour", "minute", "second", "millisecond"]
        } else {
            ["year", "month", "day", "hour", "minute", "second", "millisecond"]
        };
        let mut parts = doc! { names[0]: self.random.i32(1880..2100) };
        for name in &names[1..] {
            if self.coin() {
                parts.insert(*name, self.random.i32(-70..400));
            }
        }
        doc! { "$dateFromParts": self.with_zone(parts) }
    }

    /// A function that goes over an array, or gives variables.
    pub fn array_expression(&mut self, depth: u8) -> Document {
        let input = match self.random.u8(0..6) {
            0 => Bson::from("$missing"),
            1 => vec![Bson::from("$d"), Bson::from("$$ROOT.n"), 7.into()].into(),
            2 if depth > 0 => doc! { "$concatArrays": ["$n", "$a"] }.into(),
            3 if depth > 0 => self.array_expression(depth - 1).into(),
            4 => "$n".into(),
            _ => "$a".into(),
        };
        // What is no array fails there and here; arrays are what is of interest.
        let input = doc! { "$cond": [{ "$isArray": [input.clone()] }, input, Bson::Null] };
        let name = self.pick(&["this", "one", "x1"]);
        let body = self.body(name, depth);
        let named = |mut arguments: Document| {
            if name != "this" {
                arguments.insert("as", name);
            }
            arguments
        };
        match self.random.u8(0..4) {
            0 => doc! { "$map": named(doc! { "input": input, "in": body }) },
            1 => {
                let mut arguments = named(doc! { "input": input, "cond": body });
                if self.coin() {
                    arguments.insert("limit", self.random.i32(1..3));
                }
                doc! { "$filter": arguments }
            }
            2 => {
                let body = self.pick(&[
                    Bson::from(doc! { "$concatArrays": ["$$value", ["$$this"]] }),
                    Bson::from(vec![Bson::from("$$this"), Bson::from("$$value")]),
                    Bson::from(doc! { "$cond": ["$$this", "$$this", "$$value"] }),
                    Bson::from("$$this.b"),
                ]);
                let initial = Bson::from(vec![Bson::from("$n")]);
                doc! { "$reduce": { "input": input, "initialValue": initial, "in": body } }
            }
            _ => {
                let body = self.body(name, depth);
                doc! { "$let": { "vars": { name: input, "other": "$$ROOT.n" }, "in": body } }
            }
        }
    }

    /// An expression that sees a variable.
    fn body(&mut self, name: &str, depth: u8) -> Bson {
        let seen = Bson::from(format!("$${name}"));
        match self.random.u8(0..9) {
            0 => seen,
            1 => format!("$${name}.b").into(),
            2 => doc! { "$gt": [seen, 1] }.into(),
            3 => doc! { "$eq": [format!("$${name}.b"), 1] }.into(),
            4 => doc! { "is": { "$type": seen.clone() }, "was": seen }.into(),
            5 => vec![seen, "$n".into(), "$$CURRENT.d".into()].into(),
            6 => doc! { "$ifNull": [format!("$${name}.b.c"), "$missing"] }.into(),
            7 if depth > 0 => {
                let inner = doc! { "$concatArrays": [[seen.clone()], "$n"] };
                let body = doc! { "$eq": ["$$inner", seen] };
                doc! { "$map": { "input": inner, "as": "inner", "in": body } }.into()
            }
            _ => doc! { "$in": [seen, [1, 2, "a"]] }.into(),
        }
    }
}
