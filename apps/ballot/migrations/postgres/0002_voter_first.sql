-- A voter's id already differs from poll to poll, so it alone decides nearly every comparison in the index; with the poll in
-- front, each of them compared two equal texts first.
-- On a full table this takes longer than any other statement may; votes cannot be written meanwhile and wait in the fronts' logs.
set local statement_timeout = 0;
alter table votes drop constraint votes_pkey, add primary key (voter, poll);
alter table replaced drop constraint replaced_pkey, add primary key (tag, poll);
