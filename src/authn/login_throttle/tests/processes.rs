//! The limits over several processes on one store.

use super::*;

/// Several processes of one world, asked in turn.
struct Processes {
    world: World,
    all: Vec<Arc<Authn>>,
}

impl Processes {
    async fn start() -> Self {
        let world = World::shared(&server::database().await).await;
        let all = vec![Arc::clone(&world.authn), world.process().await, world.process().await];
        Self { world, all }
    }

    async fn answer(&self, process: usize, header: &str, address: IpAddr) -> String {
        let authn = &self.all[process % self.all.len()];
        match authn.authenticate(RawCredentials::authorization(header.as_bytes()), address).await {
            Ok(identity) => identity.name.to_string(),
            Err(Error::Failed(reason)) => reason.to_string(),
            Err(Error::TooManyAttempts { .. }) => "too_many".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// Every process reads what the others changed.
    async fn follow(&self) {
        for authn in &self.all {
            authn.follow_store().await;
        }
    }
}

#[tokio::test]
async fn alternating_between_processes_gives_no_more_guesses() {
    let them = Processes::start().await;
    let mut wrong = 0;
    for guess in 0..12 {
        let answer = them.answer(guess, &basic("alice", &format!("guess {guess}")), HERE).await;
        wrong += u32::from(answer == "wrong_password");
    }
    assert_eq!(wrong, PER_ACCOUNT);
    for process in 0..3 {
        assert_eq!(them.answer(process, &basic("alice", "sesame"), HERE).await, "too_many", "also the right one");
    }
    assert_eq!(them.answer(1, &basic("alice", "sesame"), THERE).await, "alice");
    them.world.clock.advance(WINDOW);
    assert_eq!(them.answer(2, &basic("alice", "sesame"), HERE).await, "alice");
}

#[tokio::test]
async fn an_address_has_one_limit_over_all_accounts_and_processes() {
    let them = Processes::start().await;
    let answers = async |from: u32| {
        let mut counted = 0;
        for guess in from..from + 12 {
            let header = basic(&format!("user {guess}"), "123456");
            counted += u32::from(them.answer(guess as usize, &header, HERE).await == "unknown_user");
        }
        counted
    };
    assert_eq!(answers(0).await, PER_ADDRESS);
    assert_eq!(answers(100).await, 0);
    // Names that were only tried after the limit leave nothing in the store.
    let key = them.world.store.sealing_key().await.unwrap();
    let shared = Shared::new(
        Arc::clone(&them.world.store),
        &key,
        TaskTracker::new(),
        Arc::clone(&them.world.authn.throttle.limits),
    );
    assert!(!shared.has_counter(&shared.keys(HERE, "user 105")).await);
    assert!(shared.has_counter(&shared.keys(HERE, "user 1")).await);
}

#[tokio::test]
async fn a_distributed_attack_has_one_pace_over_all_processes() {
    let them = Processes::start().await;
    for guess in 0..PER_ACCOUNT {
        let answer = them.answer(guess as usize, &basic("alice", "x"), new_address(guess)).await;
        assert_eq!(answer, "wrong_password");
    }
    let mut granted = 0;
    for guess in 10..20 {
        let answer = them.answer(guess as usize, &basic("alice", "x"), new_address(guess)).await;
        granted += u32::from(answer == "wrong_password");
    }
    assert_eq!(granted, 1, "the clock stands still");
}

#[tokio::test]
async fn the_owners_address_is_known_in_every_process() {
    let them = Processes::start().await;
    assert_eq!(them.answer(0, &basic("alice", "sesame"), HERE).await, "alice");
    for guess in 0..=PER_ACCOUNT {
        them.answer(guess as usize, &basic("alice", "x"), new_address(guess)).await;
    }
    assert_eq!(them.answer(1, &basic("alice", "sesame"), THERE).await, "too_many", "a stranger's turn is used up");
    assert_eq!(them.answer(1, &basic("alice", "sesame"), HERE).await, "alice");
    assert_eq!(them.answer(2, &basic("alice", "sesame"), HERE).await, "alice");
}

#[tokio::test]
async fn a_password_in_the_memory_of_one_process_is_refused_as_a_wrong_one_after_a_limit_in_another() {
    let them = Processes::start().await;
    // Its owner works at another address, through the first process.
    assert_eq!(them.answer(0, &basic("alice", "sesame"), THERE).await, "alice");
    for guess in 0..PER_ACCOUNT {
        them.answer(1, &basic("alice", &format!("guess {guess}")), HERE).await;
    }
    them.follow().await;
    let right = them.answer(0, &basic("alice", "sesame"), HERE).await;
    assert_eq!(right, "too_many", "as a wrong one");
    assert_eq!(them.answer(0, &basic("alice", "x"), HERE).await, "too_many");
    let before = them.all[0].hashing.runs();
    assert_eq!(them.answer(0, &basic("alice", "sesame"), THERE).await, "alice", "its owner works on");
    assert_eq!(them.all[0].hashing.runs(), before, "from memory");
}

#[tokio::test]
async fn at_an_owners_address_a_limit_in_one_process_hides_the_right_password_in_another() {
    let them = Processes::start().await;
    // The guesser shares the owner's address, which the second process knows.
    assert_eq!(them.answer(1, &basic("alice", "sesame"), HERE).await, "alice");
    for guess in 0..PER_ACCOUNT {
        them.answer(0, &basic("alice", &format!("guess {guess}")), HERE).await;
    }
    them.follow().await;
    let before = them.all[1].hashing.runs();
    assert_eq!(them.answer(1, &basic("alice", "sesame"), HERE).await, "too_many");
    assert_eq!(them.answer(1, &basic("alice", "x"), HERE).await, "too_many");
    assert_eq!(them.all[1].hashing.runs(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_guesses_in_several_processes_do_not_exceed_the_limit() {
    let them = Processes::start().await;
    let mut requests = JoinSet::new();
    for guess in 0..60 {
        let (authn, header) = (Arc::clone(&them.all[guess % 3]), basic("alice", &format!("guess {guess}")));
        requests.spawn(async move {
            authn.authenticate(RawCredentials::authorization(header.as_bytes()), HERE).await.map(drop)
        });
    }
    let answers = requests.join_all().await;
    let wrong = answers.iter().filter(|answer| matches!(answer, Err(Error::Failed(_)))).count();
    let refused = answers.iter().filter(|answer| matches!(answer, Err(Error::TooManyAttempts { .. }))).count();
    assert_eq!((wrong, refused), (PER_ACCOUNT as usize, 60 - PER_ACCOUNT as usize), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_people_behind_one_address_sign_in_together_through_several_processes() {
    let them = Processes::start().await;
    let sesame = PasswordHash::make(&"sesame".into());
    for number in 0..3 * PER_ADDRESS {
        them.world.store.create_user(&actor(), &format!("user{number}"), Some(&sesame), false).await.unwrap();
    }
    let mut requests = JoinSet::new();
    for number in 0..3 * PER_ADDRESS {
        let (authn, header) = (Arc::clone(&them.all[number as usize % 3]), basic(&format!("user{number}"), "sesame"));
        requests.spawn(async move {
            authn.authenticate(RawCredentials::authorization(header.as_bytes()), HERE).await.map(drop)
        });
    }
    let answers = requests.join_all().await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

#[tokio::test]
async fn guesses_that_a_killed_process_left_lock_no_owner_out() {
    let them = Processes::start().await;
    assert_eq!(them.answer(0, &basic("alice", "sesame"), HERE).await, "alice");
    // From other addresses, reserved and never settled.
    let shared = them.all[1].throttle.shared.clone().unwrap();
    for guess in 0..PER_ACCOUNT {
        let (network, counter) = (new_address(guess), Arc::<Counter>::default());
        let local = Local { address: Arc::clone(&counter), pair: Arc::clone(&counter), account: counter };
        let reserved = shared.reserve(shared.keys(network, "alice"), Familiarity::Unknown, local).await.unwrap();
        std::mem::forget(reserved);
    }
    them.all[2].forget_all();
    assert_eq!(them.answer(2, &basic("alice", "sesame"), HERE).await, "alice", "its address is known");
    them.world.clock.advance(WINDOW);
    assert_eq!(them.answer(2, &basic("alice", "sesame"), THERE).await, "alice", "a new window");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_disconnect_at_any_moment_leave_no_guess_in_progress() {
    let them = Processes::start().await;
    for patience in 0..40 {
        let header = basic("alice", &format!("guess {patience}"));
        let asked = them.answer(patience, &header, new_address(u32::try_from(patience).unwrap()));
        let _ = tokio::time::timeout(Duration::from_millis(patience as u64), asked).await;
        them.world.clock.advance(WINDOW / 100);
    }
    let shared = them.all[0].throttle.shared.clone().unwrap();
    let keys = shared.keys(HERE, "alice");
    let settled = async || {
        while shared.under_way(&keys).await > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), settled()).await.expect("nothing is left");
}

#[tokio::test]
async fn guesses_at_many_names_that_are_given_up_write_nothing_for_each() {
    let them = Processes::start().await;
    for guess in 0..50 {
        let header = basic(&format!("user {guess}"), "123456");
        let _ = tokio::time::timeout(Duration::ZERO, them.answer(0, &header, HERE)).await;
    }
    let shared = them.all[0].throttle.shared.clone().unwrap();
    let recorded = async || {
        while shared.is_recording() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), recorded()).await.expect("one task ends");
    let revision = them.world.store.revision().await.unwrap();
    for guess in 0..50 {
        assert!(!shared.has_counter(&shared.keys(HERE, &format!("user {guess}"))).await, "{guess}");
    }
    assert!(revision < 10, "{revision} announcements");
}

#[tokio::test]
async fn without_the_store_no_password_is_hashed() {
    let them = Processes::start().await;
    them.world.store.close().await;
    assert!(them.answer(0, &basic("alice", "sesame"), HERE).await.contains("store"));
    assert_eq!(them.all[0].hashing.runs(), 0);
}
