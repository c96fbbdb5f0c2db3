"""HTTP below the contract: flows and their drivers, deadlines, addresses that may be fetched."""
