//! The limits in one process: this file is compiled once for each place of the counters; see the module above.

use super::*;

#[tokio::test]
async fn an_address_is_refused_at_an_account_after_so_many_wrong_passwords_until_the_window_ends() {
    let world = world(module_path!()).await;
    for guess in 0..PER_ACCOUNT {
        assert_eq!(world.answer(&basic("alice", &format!("guess {guess}")), HERE).await, "wrong_password");
        world.clock.advance(Duration::from_mins(1));
    }
    assert_eq!(world.answer_after(0, &basic("alice", "sesame"), HERE).await, "too_many", "also the right one");
    let Err(Error::TooManyAttempts { retry_after }) = world.ask(&basic("alice", "x"), HERE).await else { panic!() };
    assert_eq!(retry_after, WINDOW - Duration::from_mins(3));
    assert_eq!(world.answer(&basic("alice", "sesame"), THERE).await, "alice", "the owner elsewhere is not locked out");
    assert_eq!(world.answer(&basic("bob", "x"), HERE).await, "wrong_password", "others are not affected");
    world.clock.advance(retry_after);
    assert_eq!(world.answer(&basic("alice", "sesame"), HERE).await, "alice");
}

#[tokio::test]
async fn an_account_that_is_guessed_from_everywhere_is_slowed_down_whether_it_exists_or_not() {
    let world = world(module_path!()).await;
    for name in ["nobody", "alice"] {
        let wrong = if name == "alice" { "wrong_password" } else { "unknown_user" };
        let mut guess = 0;
        let mut next = async || {
            guess += 1;
            let address = IpAddr::V4(std::net::Ipv4Addr::from_bits(guess));
            world.ask(&basic(name, &format!("guess {guess}")), address).await
        };
        for _ in 0..=PER_ACCOUNT {
            assert!(matches!(next().await, Err(Error::Failed(reason)) if reason.as_str() == wrong), "{name}");
        }
        let Err(Error::TooManyAttempts { retry_after }) = next().await else { panic!("{name}") };
        assert_eq!(retry_after, WINDOW / 100, "{name}");
        world.clock.advance(retry_after);
        assert!(matches!(next().await, Err(Error::Failed(_))), "{name}: one more");
        assert!(matches!(next().await, Err(Error::TooManyAttempts { .. })), "{name}: and no other");
    }
}

#[tokio::test]
async fn an_account_that_is_slowed_down_lets_its_owners_addresses_and_sessions_through() {
    let world = world(module_path!()).await;
    let elsewhere = |number: u32| IpAddr::V4(std::net::Ipv4Addr::from_bits(number));
    assert_eq!(world.answer(&basic("alice", "sesame"), HERE).await, "alice");
    world.authn.verified_passwords.invalidate_all();
    world.authn.forget_all();
    for number in 1..=PER_ACCOUNT + 1 {
        world.answer(&basic("alice", &format!("guess {number}")), elsewhere(number)).await;
    }
    assert_eq!(world.answer(&basic("alice", "sesame"), THERE).await, "too_many", "a stranger's turn is used up");
    assert_eq!(world.answer(&basic("alice", "sesame"), HERE).await, "alice", "it was right from here before");
    world.authn.verified_passwords.invalidate_all();
    world.authn.forget_all();
    let session = NewSession {
        hash: crate::crypto::SessionSecret::generate().hash(),
        user: world.alice.id,
        provider: None,
        issuer: None,
        subject: None,
        sid: None,
        tokens: String::new(),
        expires: world.clock.now().plus(DAY),
        refresh_at: None,
        address: THERE.to_string(),
        agent: String::new(),
    };
    world.store.create_session(&actor(), &session, 50).await.unwrap();
    assert_eq!(world.answer(&basic("alice", "sesame"), elsewhere(77)).await, "too_many");
    assert_eq!(world.answer(&basic("alice", "sesame"), THERE).await, "alice", "a session of the account is there");
    assert!(
        world.authn.verify_password(&world.alice, "sesame".into(), elsewhere(78)).await.unwrap(),
        "signed in already"
    );
}

#[tokio::test]
async fn a_closed_account_still_takes_its_tokens_and_a_password_in_use() {
    let world = world(module_path!()).await;
    let (secret, _) = world.token(&world.alice, "ci").await;
    world.ask(&basic("alice", "sesame"), HERE).await.unwrap();
    for guess in 0..=PER_ACCOUNT {
        world.answer(&basic("alice", &format!("guess {guess}")), THERE).await;
    }
    assert_eq!(world.answer(&basic("alice", "guess"), THERE).await, "too_many");
    world.authn.forget_all();
    assert_eq!(world.answer_after(0, &basic("alice", "sesame"), HERE).await, "alice");
    assert_eq!(world.answer(&basic("alice", secret.reveal()), THERE).await, "alice");
    assert_eq!(world.answer(&bearer(&secret), THERE).await, "alice");
}

#[tokio::test]
async fn an_address_is_refused_after_so_many_failures_but_not_its_neighbour_nor_its_tokens() {
    let world = world(module_path!()).await;
    let (secret, _) = world.token(&world.bob, "ci").await;
    for guess in 0..PER_ADDRESS {
        assert_eq!(world.answer(&basic(&format!("user {guess}"), "123456"), THERE).await, "unknown_user");
    }
    assert_eq!(world.answer_after(0, &basic("alice", "sesame"), THERE).await, "too_many");
    assert_eq!(world.answer(&bearer(&AccessToken::generate()), THERE).await, "too_many");
    assert_eq!(world.answer(&bearer(&secret), THERE).await, "bob");
    assert_eq!(world.answer(&basic("alice", "sesame"), HERE).await, "alice");
    let mapped: IpAddr = "::ffff:198.51.100.9".parse().unwrap();
    assert_eq!(world.answer(&basic("alice", "x"), mapped).await, "too_many", "the same address in other clothes");
    world.clock.advance(WINDOW);
    assert_eq!(world.answer(&basic("alice", "sesame"), THERE).await, "alice");
}

#[tokio::test]
async fn somebody_over_the_limit_does_not_learn_a_password_from_its_owner_being_signed_in() {
    let world = world(module_path!()).await;
    let right = basic("alice", "sesame");
    world.ask(&right, HERE).await.unwrap();
    for guess in 0..PER_ADDRESS {
        world.answer(&basic(&format!("user {guess}"), "123456"), THERE).await;
    }
    assert_eq!(world.recent(&right), None, "it is not known from where this comes");
    assert_eq!(world.answer(&right, THERE).await, "too_many");
    assert_eq!(world.answer_after(0, &right, HERE).await, "alice");
    world.clock.advance(WINDOW);
    world.ask(&right, HERE).await.unwrap();
    assert_eq!(world.recent(&right).as_deref(), Some("alice"));
}

#[tokio::test]
async fn an_address_over_an_accounts_limit_does_not_learn_its_password_from_its_owner_being_signed_in() {
    let world = world(module_path!()).await;
    let right = basic("alice", "sesame");
    for guess in 0..=PER_ACCOUNT {
        world.ask(&right, HERE).await.unwrap();
        world.answer(&basic("alice", &format!("guess {guess}")), THERE).await;
    }
    world.ask(&right, HERE).await.unwrap();
    assert_eq!(world.recent(&right), None, "it is not known from where this comes");
    assert_eq!(world.answer_after(0, &right, THERE).await, "too_many");
    world.authn.forget_all();
    assert_eq!(world.answer_after(0, &right, THERE).await, "too_many", "of passwords verified before, neither");
    assert_eq!(world.authn.verify_password(&world.alice, "sesame".into(), THERE).await.ok(), None);
    assert_eq!(world.answer_after(0, &right, HERE).await, "alice");
    world.clock.advance(WINDOW);
    assert_eq!(world.answer(&right, THERE).await, "alice");
}

#[tokio::test]
async fn at_an_account_that_is_slowed_down_a_right_password_is_refused_as_a_wrong_one_from_every_new_address() {
    let world = world(module_path!()).await;
    let right = basic("alice", "sesame");
    world.ask(&right, HERE).await.unwrap();
    for guess in 0..=PER_ACCOUNT {
        world.answer(&basic("alice", &format!("guess {guess}")), THERE).await;
    }
    assert_eq!(world.recent(&right), None, "it is not known from where this comes");
    let sign_in = async |password: &str, address| {
        world.authn.user_with_password("alice", password.into(), address).await.map(drop)
    };
    // The turn of strangers, for now.
    assert_eq!(world.answer(&basic("alice", "guess"), new_address(0)).await, "wrong_password");
    for number in 1..PER_ADDRESS * 3 {
        let address = new_address(number);
        assert_eq!(world.answer_after(0, &right, address).await, "too_many");
        assert!(matches!(sign_in("sesame", address).await, Err(Error::TooManyAttempts { .. })));
        assert_eq!(world.answer_after(0, &basic("alice", "guess"), address).await, "too_many");
        assert!(matches!(sign_in("guess", address).await, Err(Error::TooManyAttempts { .. })));
        assert_eq!(world.answer_after(0, &right, address).await, "too_many");
        assert_eq!(world.answer_after(0, &right, HERE).await, "alice", "the owner works on");
    }
    world.clock.advance(WINDOW / 100);
    assert_eq!(world.answer_after(1, &right, new_address(1)).await, "alice", "a turn of strangers, paid with a hash");
    assert_eq!(world.answer_after(0, &right, new_address(1)).await, "alice", "an address of the owner's now");
}

#[tokio::test]
async fn while_nothing_can_be_hashed_a_right_password_is_refused_as_a_wrong_one() {
    let world = world(module_path!()).await;
    let config = config::Authn { hash_concurrency: 1, hash_queue: 0, ..config() };
    let authn = Authn::new(&config, Arc::clone(&world.store), world.clock.clone());
    let right = basic("alice", "sesame");
    let ask = async |header: &str, address| {
        let shown = RawCredentials::authorization(header.as_bytes());
        if authn.recent(shown).is_some() { Ok(()) } else { authn.authenticate(shown, address).await.map(drop) }
    };
    ask(&right, HERE).await.unwrap();
    let held = authn.hashing.hold().await;
    let first = authn.hash_password("x".into());
    tokio::pin!(first);
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut first).await.is_err());
    assert!(matches!(ask(&basic("alice", "x"), THERE).await, Err(Error::Busy)));
    for address in [THERE, new_address(1), new_address(2)] {
        assert!(matches!(ask(&right, address).await, Err(Error::Busy)), "{address}");
    }
    ask(&right, HERE).await.expect("the owner's address was refused nothing");
    assert!(matches!(ask(&basic("alice", "x"), HERE).await, Err(Error::Busy)));
    assert!(matches!(ask(&right, HERE).await, Err(Error::Busy)), "of an address that was refused, neither");
    drop(held);
    assert!(first.await.unwrap().matches(&"x".into()));
    ask(&right, HERE).await.unwrap();
    let runs = authn.hashing.runs();
    ask(&right, HERE).await.unwrap();
    assert_eq!(authn.hashing.runs(), runs, "proven again");
}

#[tokio::test]
async fn who_hangs_up_before_the_hash_does_not_learn_a_right_password_by_its_speed() {
    let world = world(module_path!()).await;
    let right = basic("alice", "sesame");
    world.ask(&right, HERE).await.unwrap();
    let held = world.authn.hashing.hold().await;
    let hurried = async |header: &str, address| {
        if world.recent(header).is_some() {
            return true;
        }
        tokio::time::timeout(Duration::from_millis(5), world.ask(header, address)).await.is_ok()
    };
    assert!(!hurried(&basic("alice", "guess"), THERE).await);
    assert!(!hurried(&right, THERE).await);
    assert!(!hurried(&right, new_address(1)).await);
    // No hash is needed here, so this ends however busy the machine is.
    assert!(world.ask(&right, HERE).await.is_ok(), "the owner's address did nothing of the kind");
    assert!(!hurried(&basic("alice", "guess"), HERE).await);
    assert!(!hurried(&right, HERE).await);
    drop(held);
    assert_eq!(world.answer_after(1, &right, HERE).await, "alice");
    assert_eq!(world.answer_after(0, &right, HERE).await, "alice");
}

#[tokio::test]
async fn who_hangs_up_before_the_account_is_looked_up_does_not_learn_a_right_password_by_its_speed() {
    let world = world(module_path!()).await;
    let right = basic("alice", "sesame");
    world.ask(&right, HERE).await.unwrap();
    // No time: it is dropped at the first thing that it waits for, which is the store, or else its hash.
    let held = world.authn.hashing.hold().await;
    assert!(tokio::time::timeout(Duration::ZERO, world.ask(&basic("alice", "guess"), THERE)).await.is_err());
    drop(held);
    assert_eq!(world.recent(&right), None);
    assert_eq!(world.answer_after(1, &right, THERE).await, "alice", "not from memory");
    assert_eq!(world.answer_after(0, &right, HERE).await, "alice");
}

#[tokio::test]
async fn a_right_password_among_many_at_once_is_not_answered_before_them() {
    let world = world(module_path!()).await;
    let right = basic("alice", "sesame");
    world.ask(&right, HERE).await.unwrap();
    let held = world.authn.hashing.hold().await;
    let wrong: Vec<_> = (0..PER_ACCOUNT).map(|guess| basic("alice", &format!("guess {guess}"))).collect();
    let mut guesses: Vec<_> = wrong.iter().map(|wrong| Box::pin(world.ask(wrong, THERE))).collect();
    for guess in &mut guesses {
        assert_eq!(world.recent(&right).as_deref(), Some("alice"), "fewer than the limit have begun");
        // It is polled once, and waits for its look-up.
        assert!(tokio::time::timeout(Duration::ZERO, guess.as_mut()).await.is_err());
    }
    assert_eq!(world.recent(&right), None);
    assert!(tokio::time::timeout(Duration::from_millis(5), world.ask(&right, THERE)).await.is_err(), "it waits");
    drop((held, guesses));
    assert_eq!(world.answer(&right, HERE).await, "alice");
}

#[tokio::test]
async fn who_waits_for_guesses_under_way_does_not_learn_a_right_password_by_its_speed() {
    let world = world(module_path!()).await;
    let right = basic("alice", "sesame");
    world.ask(&right, HERE).await.unwrap();
    let held = world.authn.hashing.hold().await;
    let mut guesses = JoinSet::new();
    for guess in 0..=PER_ACCOUNT {
        let (authn, header) = (Arc::clone(&world.authn), basic("alice", &format!("guess {guess}")));
        guesses.spawn(async move {
            authn.authenticate(RawCredentials::authorization(header.as_bytes()), HERE).await.map(drop)
        });
    }
    while world.recent(&right).is_some() {
        tokio::task::yield_now().await;
    }
    assert!(tokio::time::timeout(Duration::from_millis(5), world.ask(&right, HERE)).await.is_err());
    drop(held);
    let answers = guesses.join_all().await;
    assert!(answers.iter().any(|answer| matches!(answer, Err(Error::TooManyAttempts { .. }))), "{answers:?}");
    assert_eq!(world.answer_after(0, &right, HERE).await, "too_many");
}

#[tokio::test]
async fn an_ipv6_subscriber_is_one_address() {
    let world = world(module_path!()).await;
    for guess in 0..PER_ADDRESS {
        let address = format!("2001:db8:1:2::{guess}").parse().unwrap();
        world.answer(&basic(&format!("user {guess}"), "123456"), address).await;
    }
    assert_eq!(world.answer(&basic("alice", "x"), "2001:db8:1:2:ffff::1".parse().unwrap()).await, "too_many");
    assert_eq!(world.answer(&basic("alice", "x"), "2001:db8:1:3::1".parse().unwrap()).await, "wrong_password");
}

#[tokio::test]
async fn a_right_password_clears_the_failures_at_the_account_and_not_the_addresses() {
    let world = world(module_path!()).await;
    for round in 0..3 {
        for guess in 0..PER_ACCOUNT - 1 {
            assert_eq!(world.answer(&basic("alice", &format!("{round} {guess}")), HERE).await, "wrong_password");
        }
        world.clock.advance(Duration::from_millis(1));
        // Verified anew each time, as after a restart.
        world.authn.forget_all();
        world.authn.verified_passwords.invalidate_all();
        let answer = world.answer(&basic("alice", "sesame"), HERE).await;
        assert_eq!(answer, if round < 2 { "alice" } else { "too_many" }, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_guesses_do_not_exceed_the_limit() {
    let world = world(module_path!()).await;
    let mut requests = JoinSet::new();
    for guess in 0..60 {
        let (authn, header) = (Arc::clone(&world.authn), basic("alice", &format!("guess {guess}")));
        let address = IpAddr::V4(std::net::Ipv4Addr::from_bits(guess / 2 + 1));
        requests.spawn(async move {
            authn.authenticate(RawCredentials::authorization(header.as_bytes()), address).await.map(drop)
        });
    }
    let answers = requests.join_all().await;
    let wrong = answers.iter().filter(|answer| matches!(answer, Err(Error::Failed(_)))).count();
    let refused = answers.iter().filter(|answer| matches!(answer, Err(Error::TooManyAttempts { .. }))).count();
    // The clock stands still, so one stranger has a turn beyond the limit.
    let granted = PER_ACCOUNT as usize + 1;
    assert_eq!((wrong, refused), (granted, 60 - granted));
    assert_eq!(world.authn.hashing.runs(), granted as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_people_behind_one_address_sign_in_together() {
    let world = world(module_path!()).await;
    let sesame = PasswordHash::make(&"sesame".into());
    let mut requests = JoinSet::new();
    for number in 0..PER_ADDRESS * 4 {
        let name = format!("user {number}");
        world.store.create_user(&actor(), &name, Some(&sesame), false).await.unwrap();
        let (authn, header) = (Arc::clone(&world.authn), basic(&name, "sesame"));
        requests.spawn(async move {
            authn.authenticate(RawCredentials::authorization(header.as_bytes()), HERE).await.map(drop)
        });
    }
    for answer in requests.join_all().await {
        answer.unwrap();
    }
}

#[tokio::test]
async fn what_is_no_guess_does_not_close_an_address() {
    let world = world(module_path!()).await;
    let (secret, token) = world.token(&world.bob, "ci").await;
    world.store.revoke_token(&actor(), token.id).await.unwrap();
    for _ in 0..PER_ADDRESS * 2 {
        assert_eq!(world.answer(&bearer(&secret), HERE).await, "revoked_token");
        assert_eq!(world.answer("Bearer eyJhbGciOi", HERE).await, "unknown_scheme");
    }
    assert_eq!(world.answer(&basic("alice", "sesame"), HERE).await, "alice");
}

#[tokio::test]
async fn a_full_queue_is_busy_and_uses_no_guess() {
    let world = world(module_path!()).await;
    let config = config::Authn { hash_concurrency: 1, hash_queue: 0, ..config() };
    let authn = Authn::new(&config, Arc::clone(&world.store), world.clock.clone());
    let held = authn.hashing.hold().await;
    let first = authn.hash_password("x".into());
    tokio::pin!(first);
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut first).await.is_err());
    for _ in 0..PER_ADDRESS * 2 {
        let answer = authn.authenticate(RawCredentials::authorization(basic("alice", "x").as_bytes()), HERE).await;
        assert!(matches!(answer, Err(Error::Busy)), "{answer:?}");
    }
    drop(held);
    assert!(first.await.unwrap().matches(&"x".into()));
    assert!(authn.authenticate(RawCredentials::authorization(basic("alice", "sesame").as_bytes()), HERE).await.is_ok());
}

#[tokio::test]
async fn hanging_up_before_the_hash_leaves_nothing_and_after_it_uses_the_guess() {
    let world = world(module_path!()).await;
    let held = world.authn.hashing.hold().await;
    for guess in 0..PER_ADDRESS * 2 {
        let header = basic("alice", &format!("guess {guess}"));
        let asking = world.ask(&header, HERE);
        assert!(tokio::time::timeout(Duration::from_millis(5), asking).await.is_err());
    }
    assert_eq!(world.authn.single_flight.count(), 0);
    drop(held);

    for guess in 0..PER_ACCOUNT {
        let header = basic("alice", &format!("guess {guess}"));
        let asking = world.ask(&header, HERE);
        tokio::pin!(asking);
        let runs = world.authn.hashing.runs();
        while world.authn.hashing.runs() == runs {
            assert!(tokio::time::timeout(Duration::from_micros(10), &mut asking).await.is_err());
        }
    }
    assert_eq!(world.answer(&basic("alice", "sesame"), HERE).await, "too_many");
}

#[tokio::test]
async fn a_signed_in_person_proving_the_password_again_is_counted_too() {
    let world = world(module_path!()).await;
    let verify = async |password: &str| world.authn.verify_password(&world.alice, password.into(), HERE).await;
    assert!(verify("sesame").await.unwrap());
    for guess in 0..PER_ACCOUNT {
        assert!(!verify(&format!("guess {guess}")).await.unwrap());
    }
    assert!(matches!(verify("guess").await, Err(Error::TooManyAttempts { .. })));
    assert!(matches!(verify("sesame").await, Err(Error::TooManyAttempts { .. })), "right and wrong are refused alike");
}
