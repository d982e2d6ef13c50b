use super::super::facts::Answer;
use super::*;
use crate::engine::rules::SourceFile;

/// The loader refuses a file without rules; a run of one must not pass all the same.
#[tokio::test]
async fn steps_that_no_rules_decide_fail() {
    let rules = "{domain: ai, descriptors: [{key: user, rate_limit: 9/day, reserve: {amount: 2}}]}";
    for (steps, line) in
        [("[{ask: {user: ann}}]", 1), ("[{together: 2, ask: {user: ann}}]", 1), ("[{look: {user: ann}}]", 1)]
    {
        let text = format!("rules: {rules}\ntests: [{{name: one, steps: {steps}}}]\n");
        let source = SourceFile { name: "a.test.yaml".into(), text };
        let mut file = TestFile::load(&source, &|_| Default::default()).expect("a good file");
        file.rules.clear();
        let encode = |_: &Request<'_>, _: &Decision<'_>, _: &str| Answer::default();
        let options = RunOptions { filter: None, backend: &Backend::Memory, encode: &encode, record: false };
        let report = file.run(&options).await;
        let failure = report.tests[0].failure.as_ref().unwrap_or_else(|| panic!("{steps} passes"));
        assert_eq!((failure.mismatches[0].field, failure.step), ("rules", line), "{steps}");
    }
}
