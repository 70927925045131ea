use super::*;

fn index(experiments: &[(&str, &str)]) -> Index {
    let mut index = Index::default();
    for (id, location) in experiments {
        index.learn(ExperimentId {
            name: None,
            experiment_id: (*id).to_owned(),
            artifact_location: (*location).to_owned(),
            creation_time: 1,
        });
    }
    index
}

#[test]
fn a_path_belongs_to_the_experiment_it_lies_in_most_specifically() {
    let index = index(&[
        ("0", "mlflow-artifacts:/0"),
        ("5", "mlflow-artifacts:/5"),
        ("6", "mlflow-artifacts:/workspaces/default/6"),
        ("7", "mlflow-artifacts:/team-x/seven"),
        ("8", "mlflow-artifacts://host:5000/team-x/seven/eight"),
        ("9", "mlflow-artifacts:/5/nine"),
        ("10", "http://host/api/2.0/mlflow-artifacts/artifacts/by-http"),
        ("11", "s3://bucket/11"),
        ("12", "mlflow-artifacts:/shared"),
        ("13", "mlflow-artifacts:/shared/"),
        ("14", "mlflow-artifacts:/99"),
        ("15", "mlflow-artifacts:/11"),
        ("16", "mlflow-artifacts:/"),
        ("17", "mlflow-artifacts:/a%20b"),
        ("18", "mlflow-artifacts:/a/../18"),
    ]);
    let cases = [
        ("0/x", Some(("0", "x"))),
        ("5", Some(("5", ""))),
        ("5/run/artifacts/x", Some(("5", "run/artifacts/x"))),
        // Not made yet, or made by another writer: its default location is known without asking.
        ("77/x", Some(("77", "x"))),
        ("6/x", None),
        ("workspaces/default/6/x/", Some(("6", "x"))),
        ("workspaces/default/5/x", None),
        ("workspaces/default", None),
        ("team-x", None),
        ("team-x/sevenx", None),
        ("team-x/seven/x", Some(("7", "x"))),
        ("team-x/seven/eight/x", Some(("8", "x"))),
        ("team-x/seven/eightx", Some(("7", "eightx"))),
        ("5/nine/x", Some(("9", "x"))),
        ("5/nine", Some(("9", ""))),
        ("by-http/x", Some(("10", "x"))),
        ("shared/x", None),
        ("99/x", None),
        // 11 is in a bucket, so its ID is no experiment's default location.
        ("11/x", Some(("15", "x"))),
        ("16/x", None),
        ("other/x", None),
        ("a%20b/x", None),
        ("18/x", None),
    ];
    for (path, expected) in cases {
        let path = ArtifactPath::parse(path).expect("an artifact path");
        let found = index.place(&path);
        let found = found.as_ref().map(|place| (&*place.experiment, place.below));
        assert_eq!(found, expected, "{}", path.as_str());
    }
}

#[test]
fn a_folder_that_holds_others_locations_takes_the_permission_on_all_of_them() {
    let index =
        index(&[("5", "mlflow-artifacts:/5"), ("9", "mlflow-artifacts:/5/nine"), ("8", "mlflow-artifacts:/5/nine/8")]);
    let of = |path: &str| {
        let path = ArtifactPath::parse(path).expect("an artifact path");
        let mut found = index.requirements(Permission::Manage, &path).unwrap_or_default();
        found.iter_mut().flat_map(Requirement::experiments_mut).map(|one| one.key.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of("5"), ["5", "9", "8"]);
    assert_eq!(of("5/"), ["5", "9", "8"]);
    assert_eq!(of("5/nin"), ["5"]);
    assert_eq!(of("5/nine"), ["9", "8"]);
    assert_eq!(of("5/x"), ["5"]);
}

#[test]
fn an_id_that_comes_again_is_where_the_new_experiment_is() {
    let mut index = index(&[("5", "mlflow-artifacts:/team/5")]);
    let learn = |index: &mut Index, location: &str| {
        let (experiment_id, artifact_location) = ("5".to_owned(), location.to_owned());
        index.learn(ExperimentId { experiment_id, artifact_location, creation_time: 2, name: None });
    };
    learn(&mut index, "mlflow-artifacts:/other/5");
    assert!(index.place(&ArtifactPath::parse("team/5/x").expect("a path")).is_none());
    assert!(index.place(&ArtifactPath::parse("other/5/x").expect("a path")).is_some());
    learn(&mut index, "mlflow-artifacts:/5");
    assert!(index.place(&ArtifactPath::parse("other/5/x").expect("a path")).is_none());
    assert!(index.place(&ArtifactPath::parse("5/x").expect("a path")).is_some());
    assert!(index.moved.is_empty() && index.owners.is_empty());
}
