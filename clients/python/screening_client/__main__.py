"""`python -m screening_client`."""

from screening_client.cli import main

raise SystemExit(main())
