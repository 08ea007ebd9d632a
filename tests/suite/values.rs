//! What expressions give, value by value, against a real `mongod`.

use bson::{Bson, Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::{Client, Collection};
use sidestream::matcher::Template;

use crate::generate::Generator;
use crate::matcher::{cases_and_seed, replace};
use crate::support;

/// Expressions that are computed in one question.
const AT_ONCE: usize = 25;
const DOCUMENTS: usize = 40;

/// What the server computes: for each document, for each expression its value and type. In
/// brackets, where what is missing becomes a null.
async fn computed(
    collection: &Collection<RawDocumentBuf>,
    expressions: &[Document],
) -> Result<Vec<Vec<Bson>>, String> {
    let mut fields = doc! { "_id": 0 };
    for (index, expression) in expressions.iter().enumerate() {
        let value = Bson::from(expression.clone());
        let kind = doc! { "$type": value.clone() };
        fields.insert(format!("v{index}"), vec![value, kind.into()]);
    }
    let pipeline = [doc! { "$sort": { "_id": 1 } }, doc! { "$project": fields }];
    let cursor = collection.clone_with_type::<Document>().aggregate(pipeline).await;
    let cursor = cursor.map_err(|error| error.to_string())?.with_type::<Document>();
    let rows: Vec<Document> = cursor.try_collect().await.map_err(|error| error.to_string())?;
    Ok(rows.into_iter().map(|row| row.into_iter().map(|(_, value)| value).collect()).collect())
}

/// Whether the matcher computes that value and type.
fn gives(expression: &Document, value: &Bson, document: &RawDocumentBuf) -> Result<bool, String> {
    let ours: Bson =
        vec![Bson::from(expression.clone()), doc! { "$type": expression.clone() }.into()].into();
    let filter = doc! { "$expr": { "$eq": [ours, { "$literal": value.clone() }] } };
    let template = Template::parse(&filter).map_err(|errors| format!("{errors:?}"))?;
    Ok(template.bind(&mut |_| None).matches(document))
}

async fn compare(name: &str, default: usize, mut make: impl FnMut(&mut Generator) -> Document) {
    let client = Client::with_uri_str(support::mongo::uri()).await.unwrap();
    let collection = client.database("matcher").collection(name);
    let (cases, seed) = cases_and_seed(default);
    let mut generator = Generator::new(seed);
    let (mut asked, mut wrong) = (0, Vec::new());
    while asked < cases && wrong.len() < 10 {
        let documents: Vec<Document> = (0..DOCUMENTS).map(|_| generator.dated()).collect();
        let stored = replace(&collection, &documents).await;
        for _ in 0..4 {
            let expressions: Vec<Document> = (0..AT_ONCE).map(|_| make(&mut generator)).collect();
            asked += expressions.len();
            let rows = computed(&collection, &expressions).await;
            let rows = rows.unwrap_or_else(|error| panic!("MATCHER_SEED={seed}: {error}"));
            for (document, row) in stored.iter().zip(rows) {
                for (expression, value) in expressions.iter().zip(row) {
                    if gives(expression, &value, document) != Ok(true) {
                        let given = gives(expression, &value, document);
                        let document = Document::try_from(document.clone()).unwrap();
                        wrong.push(format!("{given:?}, not {value}: {expression} of {document}"));
                    }
                }
            }
        }
    }
    client.shutdown().await;
    wrong.truncate(30);
    assert!(wrong.is_empty(), "MATCHER_SEED={seed}\n{}", wrong.join("\n"));
}

#[tokio::test]
async fn generated_dates_as_the_server_computes_them() {
    compare("dates", 600, Generator::date_expression).await;
}

#[tokio::test]
async fn generated_arrays_as_the_server_computes_them() {
    compare("arrays", 400, |generator| generator.array_expression(2)).await;
}
