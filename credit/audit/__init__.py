"""What audits credit methods: made-up groups, stand-ins for models, the rules, and the properties to know."""
